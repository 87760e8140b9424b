"""Optimizers that orthogonalize: Muon, and MuSGD, which mixes its update with that of SGD.

Muon (K. Jordan, 2024, "Muon: an optimizer for hidden layers in neural networks") replaces the momentum of a matrix,
U S V^T, by nearly U V^T: every direction of the matrix learns at the same pace, not only those of large gradients.
Three iterations of Newton-Schulz do so without a decomposition, each with coefficients of its own (N. Amsel, 2025, "The
Polar Express", arXiv 2505.16932): the polynomial that is nearest to 1 on the interval to which the one before has
brought the singular values. Jordan's five iterations of one polynomial bring them to 0.7 to 1.2, with 1.4 to 1.7 times
the multiplications; of what lies below 0.01 of the whole they make more. A kernel counts as the matrix (out, in * kh *
kw). Vectors, and the network's output layers, learn as with SGD: they are no maps between hidden features.

The step of a matrix is lr * sqrt(max(1, rows / columns)) * U V^T, Jordan's scale, and not the 0.2 * sqrt(max(rows,
columns)) of Liu 2025 (arXiv 2502.16982, equation 4): that one suits Adam's rates, this one SGD's, which the other
parameters have here. torch.optim.Muon (torch 2.9 and later) takes matrices only, no kernels.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS = (  # of x, x^3, x^5
    (8.0934, -23.6204, 17.4462),  # singular values of 0.01 to 1 come to 0.08 to 1.92,
    (3.6366, -2.7219, 0.5365),  # to 0.29 to 1.71,
    (2.6613, -1.9772, 0.4526),  # and to 0.73 to 1.27
)
OBLONG = 1.5  # columns per row from which the Gram matrix takes fewer multiplications
MIXED_SHARE = 0.5  # of Muon's update in MuSGD's
TURN = "turn"  # of a group: the steps it has taken
_TINY = 1e-7


def orthogonalized(matrices: Tensor) -> Tensor:
    """Return matrices with the same singular vectors, and singular values near 1.

    Args:
        matrices: (N, rows, columns).

    Returns:
        (N, rows, columns); a matrix of zeros stays one.
    """
    is_tall = matrices.shape[1] > matrices.shape[2]
    wide = matrices.mT if is_tall else matrices  # products with the smaller of the two Gram matrices
    wide = wide / (torch.linalg.vector_norm(wide, dim=(1, 2), keepdim=True) + _TINY)
    is_oblong = wide.shape[2] > OBLONG * wide.shape[1]
    wide = _iterated_on_gram(wide) if is_oblong else _iterated(wide)
    return wide.mT if is_tall else wide


def _iterated(wide: Tensor) -> Tensor:
    for linear, cubic, quintic in COEFFICIENTS:
        wide = torch.baddbmm(wide, _higher_terms(wide @ wide.mT, cubic, quintic), wide, beta=linear)
    return wide


def _iterated_on_gram(wide: Tensor) -> Tensor:
    """Return what `_iterated` does, by products of (rows, rows) except for the first and the last.

    An iteration is X -> P X with P = aI + bG + cG^2 of the Gram matrix G = X X^T, which it makes P G P. So the factors
    P are collected and X is multiplied once. G has the squares of the singular values: in float32 directions below
    0.0003 of the whole are less exact. The result is off by up to 0.002 where values of 0.7 to 1.3 are meant, and by
    0.02 where one direction of 256 outweighs the others a thousandfold; Jordan's bfloat16 is off by 0.3 there.
    """
    gram = wide @ wide.mT
    factors = polynomial = _polynomial(gram, COEFFICIENTS[0])
    for coefficients in COEFFICIENTS[1:]:
        gram = polynomial @ gram @ polynomial
        polynomial = _polynomial(gram, coefficients)
        factors = polynomial @ factors
    return factors @ wide


def _polynomial(gram: Tensor, coefficients: tuple[float, float, float]) -> Tensor:
    linear, cubic, quintic = coefficients
    polynomial = _higher_terms(gram, cubic, quintic)
    polynomial.diagonal(dim1=1, dim2=2).add_(linear)
    return polynomial


def _higher_terms(gram: Tensor, cubic: float, quintic: float) -> Tensor:
    return torch.baddbmm(gram, gram, gram, beta=cubic, alpha=quintic)


def muon_updates(directions: Sequence[Tensor]) -> list[Tensor]:
    """Return Muon's update of each direction; those of equal shape are computed together.

    Args:
        directions: Momentum of each matrix or kernel, (out, in, ...).

    Returns:
        Tensors of the same shapes.
    """
    places: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, direction in enumerate(directions):
        places[len(direction), direction[0].numel()].append(index)
    updates: dict[int, Tensor] = {}
    for (rows, columns), indices in places.items():
        stacked = torch.stack([directions[index].reshape(rows, columns) for index in indices])
        scaled = orthogonalized(stacked).mul_(max(1.0, rows / columns) ** 0.5)
        updates |= {
            index: each.reshape(directions[index].shape) for index, each in zip(indices, scaled.unbind(), strict=True)
        }
    return [updates[index] for index in range(len(directions))]


def is_matrix(weight: Tensor) -> bool:
    """Return whether a weight, flattened to (out, rest), has several rows and several columns."""
    return weight.ndim >= 2 and len(weight) > 1 and weight[0].numel() > 1


class Muon(torch.optim.SGD):
    """Muon for the matrices that are named, SGD with Nesterov momentum for everything else.

    With gradient g, velocity v = momentum * v + g and direction d = g + momentum * v, a matrix W becomes

        W - lr * (share * muon(d) + (1 - share) * d + weight_decay / (1 - momentum) * W)

    With `every` above 1 only one in so many matrices has its turn in a step, and lr counts so many times for it. The
    velocity takes up every gradient, and reaches over more steps than that: few of them are lost, and most of the time
    of orthogonalizing is saved.

    Its weight decay is decoupled from the direction, which would turn it into one more direction of full length, and is
    as strong as SGD's, whose velocity adds up 1 / (1 - momentum) of it.

    Args:
        params: Parameters, or groups of them.
        matrices: Those among them that Muon updates.
        lr: Learning rate.
        momentum: Of the velocity, below 1 if there is weight decay.
        fused: As SGD's, for everything else.
        every: Steps from one turn of a matrix to the next, at least 1.

    Attributes:
        share: Of Muon's update in a matrix's.
    """

    share = 1.0

    def __init__(
        self,
        params: Iterable[Any],
        matrices: Iterable[nn.Parameter],
        lr: float,
        momentum: float,
        fused: bool | None = None,
        every: int = 1,
    ):
        if every < 1:
            raise ValueError(f"every {every}: expected at least 1 step")
        super().__init__(params, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=fused)
        self._step_supports_amp_scaling = False  # the scaler itself leaves out a step, since ours does not look
        self._matrices = {id(each) for each in matrices}  # tensors compare element by element
        self._every = every

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]  # torch has two overloads
        """Take a step; parameters without gradient stay. Returns the closure's result if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        held: list[tuple[Tensor, Tensor]] = []
        for group in self.param_groups:
            matrices = [weight for weight in group["params"] if id(weight) in self._matrices]
            held += [(weight, weight.grad) for weight in matrices if weight.grad is not None]
            self._step_matrices(group, matrices)
        for weight, _ in held:
            weight.grad = None  # so that SGD passes it by
        super().step()
        for weight, gradient in held:
            weight.grad = gradient
        return loss

    def _step_matrices(self, group: dict[str, Any], matrices: list[Tensor]) -> None:
        """Take a gradient up into every velocity, and move the matrices whose turn it is."""
        turn = group.get(TURN, 0)
        group[TURN] = turn + 1  # kept with the group, so that a resumed run goes on with it
        gradients: list[Tensor] = []
        velocities: list[Tensor] = []
        due: list[tuple[Tensor, Tensor, Tensor]] = []
        for place, weight in enumerate(matrices):
            if weight.grad is None:
                continue
            gradients.append(weight.grad)
            velocities.append(self._velocity(weight))
            if (place + turn) % self._every == 0:
                due.append((weight, gradients[-1], velocities[-1]))
        if gradients:
            torch._foreach_mul_(velocities, group["momentum"])
            torch._foreach_add_(velocities, gradients)
        if due:
            self._move(group, *map(list, zip(*due, strict=True)))

    def _move(
        self, group: dict[str, Any], weights: list[Tensor], gradients: list[Tensor], velocities: list[Tensor]
    ) -> None:
        lr, momentum = group["lr"] * self._every, group["momentum"]
        directions = torch._foreach_add(gradients, velocities, alpha=momentum)
        updates = muon_updates(directions)
        if group["weight_decay"]:
            torch._foreach_mul_(weights, 1 - lr * group["weight_decay"] / (1 - momentum))
        if self.share < 1:
            torch._foreach_add_(weights, directions, alpha=-lr * (1 - self.share))
        torch._foreach_add_(weights, updates, alpha=-lr * self.share)

    def _velocity(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = torch.zeros_like(weight)
        return state["momentum_buffer"]


class MuSGD(Muon):
    """As Muon, but a matrix's update is half Muon's and half SGD's: the pace of the one, the lengths of the other."""

    share = MIXED_SHARE
