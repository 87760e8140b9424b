"""A random share of what would take too long to test each time: another one in each run, one in all its processes."""

import os
import random

SEED = os.environ.get("PYTEST_XDIST_TESTRUNUID") or os.urandom(8).hex()


def share_of(names, share):
    """Return a random share of names, at least one; all of them if YOLO_TEST_ALL is set."""
    names = sorted(names)
    if os.environ.get("YOLO_TEST_ALL"):
        return names
    return sorted(random.Random(SEED).sample(names, max(int(len(names) * share), 1)))
