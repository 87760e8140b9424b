"""Quantiles of Student's t distribution for any degrees of freedom, integer or not."""

import math


def student_quantile(probability: float, freedom: float) -> float:
    """Return a quantile of Student's t distribution.

    Args:
        probability: Share of the distribution below the quantile, 0.5 to below 1.
        freedom: Degrees of freedom, above 0.

    Returns:
        t.
    """
    tail = 2 * (1 - probability)
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    t = 0.0
    while True:  # both tails together are convex in t, so Newton's steps from 0 never pass the root
        density = scale * math.exp(-(freedom + 1) / 2 * math.log1p(t * t / freedom))
        step = (_both_tails(t, freedom) - tail) / (2 * density)
        t += step
        if step <= 1e-12 * t:
            return t


def _both_tails(t: float, freedom: float) -> float:
    """P(|T| > t) = I_x(freedom / 2, 1 / 2) at x = freedom / (freedom + t^2) (Abramowitz and Stegun 26.7.1)."""
    if t == 0:
        return 1.0
    x, a, b = freedom / (freedom + t * t), freedom / 2, 0.5
    log_front = (
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) - a * math.log1p(t * t / freedom) + b * math.log(1 - x)
    )
    if x < (a + 1) / (a + b + 2):
        return math.exp(log_front) / a * _continued_fraction(x, a, b)
    return 1 - math.exp(log_front) / b * _continued_fraction(1 - x, b, a)


def _continued_fraction(x: float, a: float, b: float) -> float:
    """1 / (1 + d1 / (1 + d2 / (1 + ...))) of DLMF 8.17.22, as the ratio of two recurrences, until it converges."""
    above, above_before, below, below_before = 1.0, 0.0, 1.0, 1.0
    value = 1.0
    for term in range(1, 10_000):
        m = term // 2
        if term % 2:
            factor = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            factor = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        above, above_before = above + factor * above_before, above
        below, below_before = below + factor * below_before, below
        above, above_before, below, below_before = above / below, above_before / below, 1.0, below_before / below
        before, value = value, above
        if term > 4 and abs(value - before) <= 1e-15 * abs(value):
            break
    return value
