"""What farspan knows of its built-in engine."""
