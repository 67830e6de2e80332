"""What a GPU holds and how fast it is: the catalog, and detection through NVML."""
