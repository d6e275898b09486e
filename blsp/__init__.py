"""BLSP: bootstrapping language-speech pre-training via behavior alignment.

The modules form layers; imports go only downward (tests/test_layers.py holds this):

    programs   features, continuation, train, decode, score
    assembly   preparation, dataset, model
    parts      encoder, adapter, metrics, generation
    base       files, command, config, data_dir, audio, prompts
"""
