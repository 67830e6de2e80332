"""SGLang's memory, by version: what its start-up arithmetic gives, and what it allocates outside it."""
