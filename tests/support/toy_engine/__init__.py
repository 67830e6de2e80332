"""A fourth engine: all that farspan has to know of one, as small as it can be."""
