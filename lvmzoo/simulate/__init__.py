"""Simulated recordings with known latents."""
