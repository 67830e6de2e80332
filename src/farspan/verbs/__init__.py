"""The verbs as functions: one module each, the door through which the command line and Python programs come in."""
