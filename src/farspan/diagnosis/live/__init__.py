"""A running server, looked at: what it says of itself, what its processes do, and what it waits for."""
