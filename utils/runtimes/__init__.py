"""Runtimes: exported files read back and run in the place of a network of torch's."""
