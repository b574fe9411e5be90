"""Films become a data set."""
