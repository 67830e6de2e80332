"""All that farspan knows of vLLM."""
