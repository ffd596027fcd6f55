"""Dice overlap of label maps."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from autoreg.errors import DataError, GeometryError
from autoreg.evaluation.arrays import Array, FloatArray, as_tensor

# One counter per label value up to this one is affordable; label maps in use stay far below.
_LARGEST_LABEL = 10_000_000


def dice(
    fixed: Array, warped: Array, labels: Sequence[int], *, moving: Array | None = None
) -> FloatArray:
    """Dice coefficient 2 |F and W| / (|F| + |W|) of each label.

    Args:
        fixed: (D, H, W) label map of the fixed image.
        warped: (D, H, W) moving label map, warped onto the same grid.
        labels: The labels to be scored; 0 is scored like any other.
        moving: The label map before it was warped, of any shape. With it, a label that is
            missing there gives NaN, and one that was there but got lost by the warp gives 0, as
            in Learn2Reg. Without it, a label gives NaN where the fixed map lacks it.

    Returns:
        (len(labels),) in [0, 1]; NaN for a label that is missing in `fixed` or `moving`.

    Raises:
        GeometryError: if the shapes differ.
        DataError: for negative or absurdly large labels.

    Example:
        >>> dice(np.array([[[1, 1, 0]]]), np.array([[[0, 1, 1]]]), [1])
        array([0.5])
    """
    if tuple(fixed.shape) != tuple(warped.shape):
        raise GeometryError(
            f"Dice needs label maps of one shape, found {tuple(fixed.shape)} (fixed) and "
            f"{tuple(warped.shape)} (warped)"
        )
    fixed_ids, warped_ids = _flat_labels(fixed, "fixed"), _flat_labels(warped, "warped")
    wanted = torch.tensor(list(labels), dtype=torch.int64)
    if wanted.numel() == 0:
        return np.zeros(0)
    in_fixed = _counts(fixed_ids, wanted)
    in_warped = _counts(warped_ids, wanted)
    in_both = _counts(fixed_ids[fixed_ids == warped_ids], wanted)
    present = in_fixed > 0
    if moving is not None:
        present &= _counts(_flat_labels(moving, "moving"), wanted) > 0
    score = 2 * in_both / np.maximum(in_fixed + in_warped, 1)
    return np.where(present, score, np.nan)


def mean_over_labels(values: FloatArray) -> float:
    """Mean over the labels that have a value: NaN is left out, inf is not; NaN if none is left."""
    valued = values[~np.isnan(values)]
    return float(valued.mean()) if valued.size else float("nan")


def present_labels(label_map: Array, *, background: bool = False) -> tuple[int, ...]:
    """The labels that occur in a map, ascending; 0 among them only with `background`."""
    counts = torch.bincount(_flat_labels(label_map, "given"))
    found = torch.nonzero(counts).flatten().tolist()
    return tuple(label for label in found if label > 0 or background)


def _flat_labels(label_map: Array, name: str) -> Tensor:
    ids = as_tensor(label_map, torch.int64).flatten()
    if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) > _LARGEST_LABEL):
        raise DataError(
            f"the {name} label map holds values from {int(ids.min())} to {int(ids.max())}; "
            f"labels must lie in 0 ... {_LARGEST_LABEL}"
        )
    return ids


def _counts(ids: Tensor, wanted: Tensor) -> FloatArray:
    """How often each wanted label occurs, as float64."""
    counts = torch.bincount(ids, minlength=int(wanted.max()) + 1).cpu()
    return counts[wanted].to(torch.float64).numpy()
