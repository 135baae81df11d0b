"""Every picture: arrays and tables in, a matplotlib figure out."""
