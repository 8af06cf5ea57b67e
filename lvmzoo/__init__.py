"""A zoo of latent-variable models for neural population recordings."""
