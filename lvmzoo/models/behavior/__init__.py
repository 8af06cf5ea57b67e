"""Models aligned with behavior."""
