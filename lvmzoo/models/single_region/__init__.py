"""Models of one population."""
