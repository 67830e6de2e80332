"""Where physical memory comes from: one driver a kind of device."""
