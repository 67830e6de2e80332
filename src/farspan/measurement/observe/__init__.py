"""What the server and its GPUs say of themselves while a run goes on."""
