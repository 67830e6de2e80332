"""The encoders: tiktoken, tokenizers, or a server."""
