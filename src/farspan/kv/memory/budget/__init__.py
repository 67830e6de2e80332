"""One cap of memory for several servers on one device: who holds what, and who must give."""
