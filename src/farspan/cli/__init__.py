"""The command line: one module a verb, each parsing, calling a function and printing what it returns."""
