"""What differs between inference engines: their names for the same things."""
