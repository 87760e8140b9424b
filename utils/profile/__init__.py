"""The cost of a model: operations by two counters, memory and time per layer.

`python -m utils.profile` prints it. models.graph.flops counts operations, memory.py bytes, timing.py milliseconds;
layer_profile.py has one row per layer.
"""

ROUNDS = 10  # timed passes
DEFAULT_SIZE = [640]  # pixels of the sides of an image
