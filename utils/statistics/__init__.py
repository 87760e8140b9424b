"""Statistical comparison of detectors: AP of resampled images, intervals, permutation tests and verdicts.

docs/compare.md has the formulas and their sources. All of it is numpy on the host.
"""

from utils.statistics.comparison import compare_variants
from utils.statistics.precision import AveragePrecision, average_precision, matches_of
from utils.statistics.types import Difference, MatchedDetections

__all__ = ("AveragePrecision", "Difference", "MatchedDetections", "average_precision", "compare_variants", "matches_of")
