"""All that farspan knows of SGLang."""
