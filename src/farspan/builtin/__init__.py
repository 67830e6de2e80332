"""The built-in engine: small, readable, for one CPU or one GPU."""
