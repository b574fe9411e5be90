"""A checkpoint gives scores."""
