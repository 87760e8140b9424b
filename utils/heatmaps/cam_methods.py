"""Class activation maps: from a layer's map, and the gradients of a score at it, to one value per position.

    Grad-CAM    Selvaraju et al., ICCV 2017, equations 1 and 2:  ReLU(sum_k w_k A_k), w_k the mean of the gradients g_k
    Grad-CAM++  Chattopadhay et al., WACV 2018, equations 11 and 19: w_k = sum of a_k ReLU(g_k), with
                a_k = g_k^2 / (2 g_k^2 + sum(A_k) g_k^3) = 1 / (2 + sum(A_k) g_k)
    LayerCAM    Jiang et al., IEEE TIP 2021, equations 4 to 6:   ReLU(sum_k ReLU(g_k) A_k)
    EigenCAM    Muhammad and Yeasin, IJCNN 2020, equations 4 and 5: A projected on its first principal component

The closed form of a_k holds for every gradient that is not zero. Code that keeps the quotient adds an epsilon to its
denominator, which decides the result if the gradients of a detection are small.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from utils.config.heatmap_options import CAM_METHODS


def grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Return Grad-CAM.

    Args:
        activations: (C, H, W).
        gradients: (C, H, W) of the score.

    Returns:
        (H, W), at least 0.
    """
    weights = gradients.mean((1, 2), keepdim=True)
    return (weights * activations).sum(0).relu()


def grad_cam_plus_plus(activations: Tensor, gradients: Tensor) -> Tensor:
    """Return Grad-CAM++ of the exponential of the score, as its authors compute it; a factor exp(score) is left out.

    Args:
        activations: (C, H, W).
        gradients: (C, H, W) of the score.

    Returns:
        (H, W), at least 0.
    """
    below = 2 + activations.sum((1, 2), keepdim=True) * gradients
    alphas = torch.where((gradients != 0) & (below != 0), 1 / below, torch.zeros_like(below))
    weights = (alphas * gradients.relu()).sum((1, 2), keepdim=True)
    return (weights * activations).sum(0).relu()


def layer_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Return LayerCAM.

    Args:
        activations: (C, H, W).
        gradients: (C, H, W) of the score.

    Returns:
        (H, W), at least 0.
    """
    return (gradients.relu() * activations).sum(0).relu()


def eigen_cam(activations: Tensor, centered: bool = False) -> Tensor:
    """Return EigenCAM, which knows no score: what varies most in the map.

    A principal component has no sign of its own: it gets the one that makes strong activations positive.

    Args:
        activations: (C, H, W).
        centered: Take the mean of each channel away first, as pytorch-grad-cam does and the paper does not.

    Returns:
        (H, W), at least 0.
    """
    C, H, W = activations.shape
    positions = activations.reshape(C, H * W).T
    strength = positions.norm(dim=1)
    if centered:
        positions = positions - positions.mean(0)
    # The component is an eigenvector of the smaller of both products: of C x C or of positions x positions.
    if C <= H * W:
        component = torch.linalg.eigh(positions.T @ positions)[1][:, -1]
        projected = positions @ component
    else:
        values, vectors = torch.linalg.eigh(positions @ positions.T)
        projected = vectors[:, -1] * values[-1].clamp(min=0).sqrt()
    sign = -1.0 if float((projected * strength).sum()) < 0 else 1.0
    return (sign * projected).reshape(H, W).relu()


GRADIENT_METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradcam": grad_cam,
    "gradcam++": grad_cam_plus_plus,
    "layercam": layer_cam,
}


def needs_gradients(method: str) -> bool:
    """Return whether a method asks for the gradients of a score."""
    return method in GRADIENT_METHODS


def activation_map(method: str, activations: Tensor, gradients: Tensor | None) -> Tensor:
    """Return the map of a method, computed in float64.

    Args:
        method: One of `CAM_METHODS`.
        activations: (C, H, W).
        gradients: (C, H, W) of the score; not read by a method without gradients.

    Returns:
        (H, W) float64, at least 0.
    """
    if method not in CAM_METHODS:
        raise ValueError(f"unknown method {method!r}: one of {', '.join(CAM_METHODS)}")
    values = activations.detach().double()
    if method == "eigencam":
        return eigen_cam(values)
    if gradients is None:
        raise ValueError(f"{method} needs gradients")
    return GRADIENT_METHODS[method](values, gradients.detach().double())
