"""BLSP: bootstrapping language-speech pre-training via behavior alignment.

The modules form layers. Imports go only downward, and within a layer to modules that stand before; programs never import
one another (tests/test_layers.py holds this):

    programs   download, features, continuation, train, decode, score, llm_sft, tables
    assembly   probing, preparation, model, recognizer, behaviours, chat_client, questions, judging, answering,
               dataset, trainer, adapter_training, instruction_tuning
    parts      encoder, adapter, ctc, generation, metrics, comet
    base       files, command, config, journal, data_dir, tasks, corpus_files, unpacking, audio, mel, prompts, normalization
"""
