"""Which process this is. A launcher (torchrun) sets the variables; alone, we are rank 0 of 1."""

import os


def rank() -> int:
    """Return this process's number in the whole job, 0 when alone."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """Return the number of processes in the job, 1 when alone."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_main() -> bool:
    """Return whether this process prints and writes for the job."""
    return rank() == 0
