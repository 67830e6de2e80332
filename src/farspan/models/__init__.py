"""What a model is, read from a Hugging Face config or made here."""
