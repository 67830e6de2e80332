"""What fits, with which flags, and how long it takes, before anything is launched."""
