"""The plug-in for SGLang: its table of requests in elastic memory, switched on by `--radix-cache-backend farspan`."""
