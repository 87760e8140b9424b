"""Student's t: the quantile for any degrees of freedom, whole or not."""

import math


def student_quantile(probability: float, freedom: float) -> float:
    """The t below which a share `probability` (over 0.5, under 1) of Student's distribution lies; freedom over 0."""
    tail = 2 * (1 - probability)
    low, high = 0.0, 1.0
    while _both_tails(high, freedom) > tail:
        low, high = high, 2 * high
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _both_tails(middle, freedom) > tail else (low, middle)
    return (low + high) / 2


def _both_tails(t: float, freedom: float) -> float:
    """P(|T| > t) = I_x(freedom / 2, 1 / 2) at x = freedom / (freedom + t^2) (Abramowitz and Stegun 26.7.1)."""
    x, a, b = freedom / (freedom + t * t), freedom / 2, 0.5
    if t == 0:
        return 1.0
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    if x < (a + 1) / (a + b + 2):
        return front * _continued_fraction(x, a, b) / a
    return 1 - front * _continued_fraction(1 - x, b, a) / b


def _continued_fraction(x: float, a: float, b: float) -> float:
    """The fraction of DLMF 8.17.22, evaluated from its far end."""
    value = 1.0
    for term in range(200, 0, -1):
        m = term // 2
        if term % 2:
            factor = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            factor = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        value = 1 + factor / value
    return 1 / value
