"""The client: one request on one connection, observed, and what goes over the wire."""
