"""Drivers of elastic memory: address space and physical memory, held apart."""
