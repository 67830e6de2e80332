"""Start servers and wait until they answer."""
