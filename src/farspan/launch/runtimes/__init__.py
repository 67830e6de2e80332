"""The three ways to run a server: a process, a container, a cluster's pods."""
