"""Models of communication between regions."""
