"""Proofs: a server started, measured, explained and reported in one go."""
