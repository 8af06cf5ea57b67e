"""Scores of fitted models, one a file."""
