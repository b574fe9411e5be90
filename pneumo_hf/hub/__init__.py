"""A checkpoint becomes a page of the Hub."""
