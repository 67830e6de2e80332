"""A run as it is kept: what was asked, what came back, and the folder that holds both."""
