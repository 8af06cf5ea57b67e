"""Pieces that models are composed of."""
