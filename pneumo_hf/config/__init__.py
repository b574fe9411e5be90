"""What can be set, and how a recipe and the command line set it."""
