"""A computation without data: what torch would keep in memory, operation by operation."""

import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

# oneDNN lays channels out in blocks of 16 and copies what it is given into that layout.
_CHANNEL_BLOCK = 16
_FLOAT_BYTES = 4

_CONVOLUTION = torch.ops.aten.convolution.default
_CONVOLUTION_BACKWARD = torch.ops.aten.convolution_backward.default
_NUMBER = torch.ops.aten._local_scalar_dense.default


@contextmanager
def fake_run() -> Iterator["StorageCounter"]:
    """Inside, tensors have shapes and lifetimes but no data, and are counted."""
    counter = StorageCounter()
    with FakeTensorMode(), counter:
        yield counter


class StorageCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages that operations make, until they are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._now = 0
        self._seen: set[int] = set()

    def restart_peak(self) -> None:
        """Forget the peak so far, not what is alive."""
        self.peak = self._now

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - torch's interface
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        if func is _NUMBER:
            return 0.0
        result = func(*args, **(kwargs or {}))
        for item in result if isinstance(result, tuple | list) else (result,):
            if isinstance(item, Tensor):
                self._add(item)
        self.peak = max(self.peak, self._now + _workspace(func, args, result))
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self._now += size
        weakref.finalize(storage, self._remove(key, size))

    def _remove(self, key: int, size: int) -> Callable[[], None]:
        def remove() -> None:
            self._seen.discard(key)
            self._now -= size

        return remove


def _workspace(func: object, args: tuple[Any, ...], result: Any) -> int:  # noqa: ANN401
    if func is _CONVOLUTION:
        return convolution_workspace(
            args[0].shape,
            result.shape,
            transposed=args[6],
            backward=False,
            item_bytes=args[0].element_size(),
        )
    if func is _CONVOLUTION_BACKWARD:
        return convolution_workspace(
            args[1].shape,
            args[0].shape,
            transposed=args[7],
            backward=True,
            item_bytes=args[0].element_size(),
        )
    return 0


def convolution_workspace(
    data: Sequence[int],
    output: Sequence[int],
    *,
    transposed: bool,
    backward: bool,
    item_bytes: int = _FLOAT_BYTES,
) -> int:
    """Bytes that a 3-D convolution needs beside its arguments and results.

    Forward: input and output once more in blocked layout; transposed: the output twice; backward:
    both once more. Fitted to single convolutions measured with oneDNN (AVX-512).

    Args:
        data: Shape of the input (B, C, D, H, W).
        output: Shape of the output.
        transposed: Whether it enlarges.
        backward: Whether the gradient is taken.
        item_bytes: Of one number.
    """
    if transposed and not backward:
        return item_bytes * 2 * _blocked(output)
    return item_bytes * (_blocked(data) + _blocked(output))


def _blocked(shape: Sequence[int]) -> int:
    """How many numbers."""
    channels = math.ceil(shape[1] / _CHANNEL_BLOCK) * _CHANNEL_BLOCK
    return int(shape[0] * channels * math.prod(shape[2:]))
