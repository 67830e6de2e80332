"""Prompts of exact length with checkable answers."""
