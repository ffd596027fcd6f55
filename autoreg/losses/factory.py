"""From the plan's words to losses."""

import inspect
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from autoreg.errors import PlanError, did_you_mean
from autoreg.losses.regularity import bending, diffusion, draw_gradicon_points, gradicon
from autoreg.losses.similarity import LNCC, MIND, MSE, Similarity, SquaredLNCC, WindowedNCC
from autoreg.network_plan import Triple
from autoreg.numerics.coordinates import Size
from autoreg.numerics.maps import CoordinateMap
from autoreg.plan import LossPlan

SIMILARITIES: dict[str, type[Similarity]] = {
    "lncc": LNCC,
    "squared_lncc": SquaredLNCC,
    "windowed_ncc": WindowedNCC,
    "mind": MIND,
    "mse": MSE,
}

Regularity = Callable[[CoordinateMap, CoordinateMap, Size, torch.Generator], Tensor]
"""(fixed_to_moving, moving_to_fixed, shape of the grid, generator of random points) -> scalar."""


def _gradicon(
    fixed_to_moving: CoordinateMap,
    moving_to_fixed: CoordinateMap,
    shape: Size,
    generator: torch.Generator,
) -> Tensor:
    device = fixed_to_moving.device
    points = draw_gradicon_points(shape, generator, device)
    return gradicon(fixed_to_moving, moving_to_fixed, points)


def _both_directions(penalty: Callable[[Tensor], Tensor]) -> Regularity:
    """The mean of a penalty on the displacements of both maps; nothing random in it."""

    def regularity(
        fixed_to_moving: CoordinateMap,
        moving_to_fixed: CoordinateMap,
        shape: Size,
        generator: torch.Generator,
    ) -> Tensor:
        chains = (fixed_to_moving, moving_to_fixed)
        return torch.stack([penalty(c.displacement_vox(shape)) for c in chains]).mean()

    return regularity


REGULARITIES: dict[str, Callable[[Triple], Regularity]] = {
    "gradicon": lambda _: _gradicon,
    "diffusion": lambda spacing: _both_directions(partial(diffusion, spacing_mm=spacing)),
    "bending": lambda _: _both_directions(bending),
}


def build_similarity(loss: LossPlan) -> Similarity:
    """The similarity that a plan asks for.

    Args:
        loss: What the plan says of it. Parameters that it doesn't name keep their defaults.

    Returns:
        The similarity.

    Raises:
        PlanError: for an unknown name or parameter, or an impossible value.
    """
    if loss.similarity not in SIMILARITIES:
        remedy = did_you_mean(loss.similarity, SIMILARITIES)
        raise PlanError(f'loss.similarity "{loss.similarity}" is unknown; {remedy}')
    similarity = SIMILARITIES[loss.similarity]
    defaults = {p.name: p.default for p in inspect.signature(similarity).parameters.values()}
    values = {}
    for name, value in loss.similarity_parameters.items():
        where = f'loss.similarity_parameters of "{loss.similarity}"'
        if name not in defaults:
            raise PlanError(f'{where}: unknown "{name}"; {did_you_mean(name, defaults)}')
        if isinstance(defaults[name], int) and not float(value).is_integer():
            raise PlanError(f'{where}: "{name}" must be a whole number, found {value}')
        values[name] = type(defaults[name])(value)
    return similarity(**values)


def build_regularity(loss: LossPlan, spacing_mm: Triple) -> Regularity:
    """The regularity that a plan asks for, without its weight.

    Args:
        loss: What the plan says of it.
        spacing_mm: Of the plan's grid, along (d, h, w).

    Returns:
        The function.

    Raises:
        PlanError: if the name is unknown.
    """
    if loss.regularity not in REGULARITIES:
        remedy = did_you_mean(loss.regularity, REGULARITIES)
        raise PlanError(f'loss.regularity "{loss.regularity}" is unknown; {remedy}')
    return REGULARITIES[loss.regularity](spacing_mm)
