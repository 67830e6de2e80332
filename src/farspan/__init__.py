"""farspan sizes, serves and proves million-token LLM contexts."""

__version__ = "0.1.0"
