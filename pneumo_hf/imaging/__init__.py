"""A file becomes a film."""
