"""Similarity and regularity of a registration, as pure torch functions."""
