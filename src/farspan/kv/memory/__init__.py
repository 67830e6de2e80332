"""Elastic memory: drivers, segments, ranges and the pages on them."""
