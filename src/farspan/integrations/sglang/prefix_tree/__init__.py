"""A prefix tree for SGLang whose chunked prefill costs the new tokens only."""
