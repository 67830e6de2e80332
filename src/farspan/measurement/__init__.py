"""Measure a server with prompts of exact length."""
