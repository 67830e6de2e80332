"""The prefix tree: which pages already hold the beginning of a prompt."""
