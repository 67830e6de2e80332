"""What encodes: tiktoken, tokenizers, or a server."""
