"""From what was observed to figures, with how far to trust them."""
