"""The KV cache behind the built-in engine."""
