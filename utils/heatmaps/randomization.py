"""The sanity check of heat maps: does a map change if what the network learned is destroyed, layer by layer?

Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018, section 3: cascading randomization from the head to the
image. A map that stays as it was shows edges of the image, not what the network has learned.

A parameter is replaced by draws from a normal distribution with its own mean and deviation, so that maps keep about
their scale; statistics of batch norms stay.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from models.yolo import Model
from utils.heatmaps.similarity import spearman, ssim

LOW, HIGH = 0.3, 0.7  # correlations with the original map, all layers randomized, between which the verdict is open


@dataclass(frozen=True)
class SanityStep:
    """One step of a cascade.

    Attributes:
        draw: Index of the randomization.
        depth: How many rows are randomized, counted from the head; 0 is the trained network.
        row: The row that was randomized last, such as "23 C3"; "" for none.
        spearman: Rank correlation with the map of the trained network, -1..1.
        ssim: Structural similarity of both maps, each divided by its maximum.
        flat: Whether the map has one value everywhere; its correlation counts as 0.
    """

    draw: int
    depth: int
    row: str
    spearman: float
    ssim: float
    flat: bool


@torch.no_grad()
def randomize(module: nn.Module, generator: torch.Generator) -> None:
    """Replace each parameter of a module by normal draws with its mean and deviation.

    Args:
        module: It is changed.
        generator: On the CPU.
    """
    for parameter in module.parameters():
        values = parameter.double()
        spread = values.std(correction=0) if values.numel() else values.sum()
        drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.copy_(values.mean() + spread * drawn.to(values.device))


def cascade(model: Model, make_map: Callable[[Model], Tensor], draws: int, seed: int) -> Iterator[SanityStep]:
    """Randomize the rows of a network from the head to the image and compare each map with the original.

    Args:
        model: The trained network; it stays as it is.
        make_map: From a network to its map (H, W), at least 0.
        draws: How often the cascade is run, each time with other numbers.
        seed: Decides them.

    Yields:
        The steps: `depths(model)` per draw.
    """
    original = _as_image(make_map(model))
    for draw in range(draws):
        generator = torch.Generator().manual_seed(seed * 1009 + draw)
        changed = copy.deepcopy(model)
        yield SanityStep(draw, 0, "", spearman(original, original), ssim(original, original), _is_flat(original))
        for depth, index in enumerate(_rows_with_parameters(changed), 1):
            row = changed.model[index]
            randomize(row, generator)
            values = _as_image(make_map(changed))
            likeness = spearman(original, values), ssim(original, values)
            yield SanityStep(draw, depth, f"{index} {type(row).__name__}", *likeness, _is_flat(values))


def depths(model: Model) -> int:
    """Return the number of steps of one draw."""
    return 1 + len(_rows_with_parameters(model))


def _rows_with_parameters(model: Model) -> list[int]:
    rows = list(model.model)
    return [index for index in reversed(range(len(rows))) if any(True for _ in rows[index].parameters())]


def _as_image(values: Tensor) -> np.ndarray:
    values = torch.nan_to_num(values, nan=0.0, posinf=0.0)
    top = float(values.max())
    return (values / top if top > 0 else values).numpy()


def _is_flat(values: np.ndarray) -> bool:
    return bool(values.max() == values.min())


def by_depth(steps: Sequence[SanityStep], figure: str) -> np.ndarray:
    """Return (draws, depths) of a figure of the steps.

    Args:
        steps: Of `cascade`.
        figure: "spearman" or "ssim".

    Returns:
        The values, in the order of the depths.
    """
    draws = 1 + max(step.draw for step in steps)
    return np.array([getattr(step, figure) for step in steps]).reshape(draws, -1)


def verdict(steps: Sequence[SanityStep]) -> str:
    """Return one line on whether a map depends on what the network learned."""
    if steps[0].flat:
        return "no verdict: the map of the trained network has one value everywhere"
    correlations = by_depth(steps, "spearman")[:, -1]
    last = float(np.abs(correlations).mean())
    reading = (
        "passes: the map depends on what the network learned"
        if last <= LOW
        else "fails: most of the map stays without what the network learned"
        if last >= HIGH
        else "in between: part of the map stays without what the network learned"
    )
    return f"{reading} (mean |rank correlation| {last:.2f} with all layers randomized)"
