"""What fails is told apart: want of memory, a failing device, the file system, anything else."""

import errno
import os

import pytest
import torch

from autoreg.errors import AutoregError
from autoreg.failures import is_out_of_memory, reason_of

EXHAUSTED = [
    MemoryError(),
    OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA driver error: CUDA_ERROR_OUT_OF_MEMORY"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate "
        "memory: you tried to allocate 4000000000000 bytes. Error code 12"
    ),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:116] data. DefaultCPUAllocator: not enough memory: you "
        "tried to allocate 4000000000000 bytes."
    ),
]


@pytest.mark.parametrize("error", EXHAUSTED, ids=str)
def test_exhausted_memory_is_recognised(error):
    assert is_out_of_memory(error)
    outer = AutoregError("training failed")
    outer.__cause__ = error
    assert is_out_of_memory(outer)


@pytest.mark.parametrize("error", EXHAUSTED, ids=str)
def test_a_pair_is_told_of_it_with_the_remedy(error):
    assert reason_of(error, "a pair", "take a coarser grid") == "out of memory; take a coarser grid"


def test_the_processors_own_error_is_recognised():
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        torch.empty(2**55)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("The size of tensor a (4) must match that of b (2)"), "RuntimeError: The"),
        (ValueError("out of memory lane"), "ValueError: out of memory lane"),
        (AutoregError("the loss is nan"), "the loss is nan"),
        (RuntimeError("CUDA error: unspecified launch failure\nmore"), "the device failed: CUDA"),
        (ValueError("CUDA error"), "ValueError: CUDA error"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.nii"), "a.nii: No space left"),
    ],
)
def test_other_errors_are_not(error, told):
    assert not is_out_of_memory(error)
    assert reason_of(error, "a pair", "take a coarser grid").startswith(told)
