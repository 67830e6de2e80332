"""vLLM's memory model, by version."""
