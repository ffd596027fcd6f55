"""Fixed points x = F(x), found with Anderson's acceleration."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from autoreg.errors import AutoregError

# Of the normalised Gram matrix (ones on its diagonal), whose products are summed in float32.
_RIDGE = 1e-5
# Plain iterations between two looks at whether they still contract.
_PATIENCE = 16


@dataclass(frozen=True)
class InverseSettings:
    """When to stop, and with what memory.

    Attributes:
        tolerance_vox: A result x = F(x') is taken when no component of x - x' is larger.
        max_evaluations: Of F, accelerated; after them plain iterations follow.
        memory: How many evaluations an accelerated step is built from.
        max_plain_evaluations: How many plain iterations there may be. They converge for every
            contraction, and end early where F is none.
    """

    tolerance_vox: float
    max_evaluations: int
    memory: int = 4
    max_plain_evaluations: int = 500


@dataclass(frozen=True, eq=False)
class FixedPoint:
    """What was found.

    Attributes:
        value: The last F(x).
        change: The largest component of F(x) - x there.
        evaluations: Of F.
        converged: Whether the change is below the tolerance.
    """

    value: Tensor
    change: float
    evaluations: int
    converged: bool


def solve_fixed_point(
    function: Callable[[Tensor], Tensor], start: Tensor, settings: InverseSettings
) -> FixedPoint:
    """Solve x = F(x).

    A step is the combination of the last images F(x_j), with weights of sum 1, of which the
    residuals F(x_j) - x_j combine to the shortest vector: one set of weights for all elements. On
    fake tensors, which have no values, F is evaluated until the memory is full.

    Args:
        function: F; takes and gives tensors of one shape.
        start: The first x.
        settings: When to stop.

    Returns:
        The result, whether it converged or not.

    Raises:
        AutoregError: A value became infinite or NaN.

    References:
        Walker and Ni, "Anderson acceleration for fixed-point iterations", SIAM J. Numer. Anal.
        49(4), 2011.
    """
    history = _History(settings.memory)
    point = image = start
    change = math.inf
    for evaluations in range(1, settings.max_evaluations + 1):
        image = function(point)
        residual = image - point
        change = _largest(residual, evaluations, settings)
        if change < settings.tolerance_vox:
            return FixedPoint(image, change, evaluations, True)
        point = history.advance(image, residual)
    del history, point
    return _plain(function, image, change, settings)


def _plain(
    function: Callable[[Tensor], Tensor], point: Tensor, change: float, settings: InverseSettings
) -> FixedPoint:
    """Plain iterations from `point`, the last change before it, as long as they contract."""
    before = math.inf
    evaluations = settings.max_evaluations
    for step in range(1, settings.max_plain_evaluations + 1):
        image = function(point)
        evaluations += 1
        change = _largest(image - point, evaluations, settings)
        point = image
        if change < settings.tolerance_vox:
            return FixedPoint(point, change, evaluations, True)
        if step % _PATIENCE == 0:
            if change >= before:
                break
            before = change
    return FixedPoint(point, change, evaluations, False)


class _History:
    """The last evaluations, and the inner products of their residuals."""

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._images: list[Tensor] = []
        self._residuals: list[Tensor] = []
        self._products = np.zeros((0, 0))

    def advance(self, image: Tensor, residual: Tensor) -> Tensor:
        """Take in an evaluation; the next point to evaluate."""
        self._images = [*self._images, image][-self._memory :]
        self._residuals = [*self._residuals, residual][-self._memory :]
        count = len(self._images)
        kept = self._products[-(count - 1) :, -(count - 1) :] if count > 1 else np.zeros((0, 0))
        self._products = np.zeros((count, count))
        self._products[:-1, :-1] = kept
        self._products[-1] = self._products[:, -1] = _inner_products(self._residuals)
        if count == 1:
            return image
        weights = _shortest_combination(self._products)
        point = self._images[-1] * weights[-1]
        for weight, image in zip(weights[:-1], self._images[:-1], strict=True):
            point.add_(image, alpha=weight)
        return point


def _shortest_combination(
    products: np.ndarray[tuple[int, int], np.dtype[np.float64]],
) -> list[float]:
    """Weights of sum 1 for which the combination of the vectors is shortest."""
    lengths = np.sqrt(np.maximum(np.diagonal(products), np.finfo(np.float64).tiny))
    normalised = products / np.outer(lengths, lengths) + _RIDGE * np.eye(len(lengths))
    weights = np.linalg.solve(normalised, 1 / lengths) / lengths
    return [float(weight) for weight in weights / weights.sum()]


def _inner_products(residuals: list[Tensor]) -> list[float]:
    """Those of the last residual with all, in one transfer."""
    last = residuals[-1].flatten()
    if isinstance(last, FakeTensor):
        return [0.0] * (len(residuals) - 1) + [1.0]
    products = torch.stack([torch.dot(residual.flatten(), last) for residual in residuals])
    return [float(product) for product in products.tolist()]


def _largest(residual: Tensor, evaluations: int, settings: InverseSettings) -> float:
    """The largest component; of a fake tensor: none once the memory is full."""
    if isinstance(residual, FakeTensor):
        return math.inf if evaluations <= settings.memory else 0.0
    if residual.numel() == 0:
        return 0.0
    low, high = torch.aminmax(residual)
    largest = float(torch.maximum(-low, high))
    if not math.isfinite(largest):
        raise AutoregError(
            f"inverse of a displacement: after {evaluations} evaluations a point is {largest}, "
            "expected finite points and displacements; look for infinite or NaN values in images, "
            "weights or the field"
        )
    return largest
