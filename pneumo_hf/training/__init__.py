"""Films become a checkpoint."""
