"""Answers and their scores."""
