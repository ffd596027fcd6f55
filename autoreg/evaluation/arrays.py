"""Arrays and tensors alike: every metric takes both."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = Tensor | NDArray[Any]
FloatArray = NDArray[np.float64]


def as_tensor(values: Array, dtype: torch.dtype) -> Tensor:
    """A tensor of `dtype`; a tensor stays on its device, a numpy array becomes a CPU tensor.

    Numpy arrays that torch cannot wrap (read-only, mirrored, foreign byte order, unsigned) are
    copied.
    """
    if isinstance(values, Tensor):
        return values.to(dtype)
    native = values.dtype.newbyteorder("=")
    return torch.from_numpy(np.array(values, dtype=native)).to(dtype)


def as_numpy(values: Array) -> NDArray[Any]:
    """A numpy array; a tensor is brought to the CPU."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
