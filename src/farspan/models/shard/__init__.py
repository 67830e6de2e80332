"""One rank of a deployment as a model of its own: its config, its folder, what differs from the rank."""
