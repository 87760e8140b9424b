"""YOLOv5's Python names with v6.1's signatures and results, for scripts of third parties.

Our own code uses none of them. What such a script imports (`utils.general`, `models.experimental`, ...) is a thin
module or package that takes its names from here. `utils.compat.names` says which there are, and what takes the place
of those that are not here.
"""
