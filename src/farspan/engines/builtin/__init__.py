"""All that farspan knows of its built-in engine; the engine itself is `farspan.builtin`."""
