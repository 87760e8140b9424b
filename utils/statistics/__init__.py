"""Are two detectors different, or is it chance: average precision of any resampling of a data set's images, intervals,
permutation tests and verdicts. docs/compare.md has the formulas and their sources; all of it is numpy on the host.
"""

from utils.statistics.comparison import compare_variants
from utils.statistics.precision import AveragePrecision, average_precision, matches_of
from utils.statistics.types import Difference, MatchedDetections

__all__ = ("AveragePrecision", "Difference", "MatchedDetections", "average_precision", "compare_variants", "matches_of")
