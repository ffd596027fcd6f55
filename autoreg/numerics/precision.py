"""float32 that is float32 on CUDA as well."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def float32_exactly() -> Iterator[None]:
    """Convolve and multiply matrices in float32 inside the block, on CUDA too.

    TF32, torch's default for convolutions there, has 10 bits of mantissa: a displacement would be
    missed by far more than a hundredth of a millimetre. Afterwards both switches are as before.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before
