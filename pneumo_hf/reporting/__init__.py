"""A verdict becomes a page."""
