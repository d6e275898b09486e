"""BLSP: bootstrapping language-speech pre-training via behavior alignment.

The modules form layers. Imports go only downward, and within a layer to modules that stand before; programs never import
one another (tests/test_layers.py holds this):

    programs   download, features, continuation, train, decode, score, tables
    assembly   probing, preparation, model, recognizer, behaviours, answering, dataset, trainer
    parts      encoder, adapter, ctc, generation, metrics
    base       files, command, config, journal, data_dir, tasks, corpus_files, unpacking, audio, mel, prompts, normalization
"""
