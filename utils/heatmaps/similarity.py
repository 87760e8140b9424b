"""How alike two maps are: Spearman's rank correlation and the structural similarity index."""

import numpy as np
import torch
import torch.nn.functional as F

WINDOW = 7  # pixels: side of the square that SSIM compares, as in scikit-image


def ranks(values: np.ndarray) -> np.ndarray:
    """Return the ranks of (n,) values from 1 on; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    return (ends - (counts - 1) / 2)[inverse]


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Return Spearman's rank correlation of two maps.

    Args:
        a: Any shape.
        b: The same shape.

    Returns:
        -1..1; 0 if one of them is constant, which orders nothing.
    """
    first, second = ranks(a.ravel()), ranks(b.ravel())
    first, second = first - first.mean(), second - second.mean()
    size = np.sqrt((first**2).sum() * (second**2).sum())
    return float((first * second).sum() / size) if size > 0 else 0.0


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Return the structural similarity of two maps of values 0..1 (Wang et al., 2004, equation 13), its mean.

    Windows are squares of 7 pixels with equal weights inside the map, and variances are unbiased, as in scikit-image.

    Args:
        a: (H, W), at least 7 x 7.
        b: The same shape.

    Returns:
        At most 1, which equal maps have.
    """
    x, y = (torch.from_numpy(np.asarray(values, np.float64))[None, None] for values in (a, b))
    count = WINDOW**2
    unbiased = count / (count - 1)
    mean_x, mean_y = F.avg_pool2d(x, WINDOW, 1), F.avg_pool2d(y, WINDOW, 1)
    var_x = unbiased * (F.avg_pool2d(x * x, WINDOW, 1) - mean_x**2)
    var_y = unbiased * (F.avg_pool2d(y * y, WINDOW, 1) - mean_y**2)
    both = unbiased * (F.avg_pool2d(x * y, WINDOW, 1) - mean_x * mean_y)
    c1, c2 = 0.01**2, 0.03**2
    index = ((2 * mean_x * mean_y + c1) * (2 * both + c2)) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return float(index.mean())
