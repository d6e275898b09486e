"""Writers of the synthetic world in the native layouts of the real corpora, one module per corpus.

Each has `SIZES`, utterances per split; `plan(sizes, seed)`, the recordings to speak; and `describe(root, recordings, times)`,
which writes everything that is not audio once all is spoken. Its docstring says what is the world's own about it.
"""
