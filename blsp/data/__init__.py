"""Corpora, Kaldi data directories, audio, log-mel, normal forms of text."""
