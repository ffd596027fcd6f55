"""How much memory a plan needs, found by running its network without computing anything.

The real network and the real objective run on fake tensors (shapes without data), forward and
backward, while every storage that comes and goes is counted: the highest sum is the peak. Added to
it are what a convolution needs while it runs, the optimiser's state, and what the process holds
before any tensor.
"""

import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from autoreg.networks.base import RegistrationNetwork
from autoreg.networks.factory import build_network
from autoreg.plan import MemoryPlan, Plan
from autoreg.registration.field_network import optimised_network
from autoreg.registration.objective import Objective

MIB = 2**20

# Measured (benchmarks/memory_estimate.py): resident size of a command after its imports.
CPU_PROCESS_BYTES = 330 * MIB
# torch.optim imports torch's compiler when the first optimiser is made.
CPU_OPTIMISER_BYTES = 90 * MIB
# matplotlib, which draws the progress after each validation, and the figure.
CPU_FIGURE_BYTES = 40 * MIB
# oneDNN's generated code, autograd's buffers and the allocator's rounding, measured at 16^3.
CPU_RUNTIME_BYTES = 40 * MIB
# cuDNN and cuBLAS workspaces; the budget's limit has left out CUDA's own context already.
CUDA_RUNTIME_BYTES = 300 * MIB
# A pair's images on their native grids, per voxel of the larger one, while the network works.
_NATIVE_BYTES_PER_VOXEL = 8
# While its result is written there are displacements and their inverse besides: measured with
# images of 0.9, 6.9 and 15 million voxels.
_EXPORT_BYTES_PER_VOXEL = 70
# While a displacement field is optimised after the network: 128 and 147 bytes beside the images,
# measured with 0.9 and 6.9 million voxels.
REFINEMENT_BYTES_PER_VOXEL = 160
# oneDNN lays channels out in blocks of 16 and copies what it is given into that layout.
_CHANNEL_BLOCK = 16
_FLOAT_BYTES = 4

_CONVOLUTION = torch.ops.aten.convolution.default
_CONVOLUTION_BACKWARD = torch.ops.aten.convolution_backward.default
_NUMBER = torch.ops.aten._local_scalar_dense.default

# Adds to a network's gradients: network, objective, moving and fixed images.
TrainingStep = Callable[[RegistrationNetwork, Objective, Tensor, Tensor], None]


@dataclass(frozen=True)
class _Parameters:
    """Bytes of all parameters, and number of values of the largest one."""

    total: int
    largest: int


def estimate_memory(plan: Plan, *, limit: int, cuda: bool, native_voxels: int = 0) -> MemoryPlan:
    """Estimate the peak memory of training, instance optimisation and prediction.

    Args:
        plan: Grid, network, loss, batch size and optimiser decide.
        limit: What the budget allows, bytes; copied into the result.
        cuda: Estimate the device's memory instead of the process's.
        native_voxels: Of the largest image on its own grid; on the CPU it takes room beside the
            network, and most while a result is written.

    Returns:
        Peaks in bytes.
    """
    return MemoryPlan(
        limit=limit,
        training=training_bytes(plan, cuda=cuda),
        instance_optimisation=instance_optimisation_bytes(
            plan, cuda=cuda, native_voxels=native_voxels
        ),
        prediction=prediction_bytes(plan, cuda=cuda, native_voxels=native_voxels),
    )


def training_bytes(plan: Plan, *, cuda: bool) -> int:
    """Peak of one training step on pairs at the planned batch size, both directions in turn."""
    return step_bytes(plan, _pair_step, plan.training.batch_size, cuda=cuda)


def step_bytes(plan: Plan, step: TrainingStep, pairs: int, *, cuda: bool) -> int:
    """Peak of a training step.

    Args:
        plan: See `estimate_memory`.
        step: Adds to the gradients of a network in training mode; numbers that it takes from
            tensors are 0.
        pairs: Of images that it is given.
        cuda: See `estimate_memory`.
    """
    with _fake_run() as counter:
        network, (moving, fixed) = _network(plan), _images(plan, pairs)
        network.train()
        weights = _parameters(network)
        counter.restart_peak()
        step(network, Objective.from_plan(plan), moving, fixed)
    # The last step's gradients are gone by then, the optimiser's moments are not.
    moments = _moments(plan.training.optimiser)
    running = counter.peak + moments * weights.total
    updating = _update_peak(weights, moments + 1, cuda=cuda)
    figure = 0 if cuda else CPU_FIGURE_BYTES
    return max(running, updating) + _runtime_bytes(cuda) + _optimiser_bytes(cuda) + figure


def instance_optimisation_bytes(plan: Plan, *, cuda: bool, native_voxels: int = 0) -> int:
    """Peak of a pair with IO, whatever the mode: two backward passes through one graph."""
    io = plan.instance_optimisation
    with _fake_run() as counter:
        network, bound = _network(plan), Objective.from_plan(plan).bind(*_images(plan, 1))
        network.eval()
        weights = _parameters(network)
        counter.restart_peak()
        optimised = optimised_network(network, bound.moving, bound.fixed, io)
        changed, parameters = _parameters(optimised), list(optimised.parameters())
        loss = bound(optimised(bound.moving, bound.fixed), torch.Generator())
        first = torch.autograd.grad(
            loss.similarity, parameters, retain_graph=True, allow_unused=True
        )
        second = torch.autograd.grad(loss.weighted_regularity, parameters, allow_unused=True)
        del loss, first, second
    # Beside the moments there is the copy from which what changes is restored.
    kept = _moments(io.optimiser) + 1
    running = counter.peak + kept * changed.total
    updating = _update_peak(changed, kept + 2, cuda=cuda)  # both gradients are projected
    computing, exporting = _native_bytes(plan, native_voxels, cuda)
    most = max(max(running, updating) + computing, 2 * weights.total + exporting)
    return most + _runtime_bytes(cuda) + _optimiser_bytes(cuda)


def prediction_bytes(plan: Plan, *, cuda: bool, native_voxels: int = 0) -> int:
    """Peak of a pair without IO."""
    with _fake_run() as counter, torch.no_grad():
        network, bound = _network(plan), Objective.from_plan(plan).bind(*_images(plan, 1))
        network.eval()
        weights = _parameters(network)
        counter.restart_peak()
        maps = network(bound.moving, bound.fixed)
        dense = maps.fixed_to_moving.dense(plan.grid.shape)
        del maps, dense
    computing, exporting = _native_bytes(plan, native_voxels, cuda)
    return max(counter.peak + computing, weights.total + exporting) + _runtime_bytes(cuda)


def convolution_workspace(
    data: Sequence[int], output: Sequence[int], *, transposed: bool, backward: bool
) -> int:
    """Bytes that a 3-D convolution needs beside its arguments and results.

    Forward: input and output once more in blocked layout; transposed: the output twice; backward:
    both once more. Fitted to single convolutions measured with oneDNN (AVX-512).

    Args:
        data: Shape of the input (B, C, D, H, W).
        output: Shape of the output.
        transposed: Whether it enlarges.
        backward: Whether the gradient is taken.
    """
    if transposed and not backward:
        return 2 * _blocked(output)
    return _blocked(data) + _blocked(output)


def _blocked(shape: Sequence[int]) -> int:
    channels = math.ceil(shape[1] / _CHANNEL_BLOCK) * _CHANNEL_BLOCK
    return _FLOAT_BYTES * shape[0] * channels * math.prod(shape[2:])


def _moments(optimiser: str) -> int:
    return 3 if optimiser == "amsgrad" else 2


def _update_peak(weights: _Parameters, lists: int, *, cuda: bool) -> int:
    """Bytes while the weights are updated; the graph is gone by then.

    Weights, so many other lists of that size (moments, copies, gradients), and two float64 copies
    of the largest tensor for dot products and temporaries. On CUDA torch updates all tensors at
    once, with two more lists of them (decayed gradients and square roots).
    """
    everything = 1 + lists + (2 if cuda else 0)
    return everything * weights.total + 2 * 8 * weights.largest


def _native_bytes(plan: Plan, voxels: int, cuda: bool) -> tuple[int, int]:
    """Bytes on native grids while the network works, and after it."""
    if cuda:
        return 0, 0
    refined = plan.instance_optimisation.refine is not None
    after = REFINEMENT_BYTES_PER_VOXEL if refined else _EXPORT_BYTES_PER_VOXEL
    return _NATIVE_BYTES_PER_VOXEL * voxels, after * voxels


def _runtime_bytes(cuda: bool) -> int:
    return CUDA_RUNTIME_BYTES if cuda else CPU_PROCESS_BYTES + CPU_RUNTIME_BYTES


def _optimiser_bytes(cuda: bool) -> int:
    return 0 if cuda else CPU_OPTIMISER_BYTES


def _parameters(network: RegistrationNetwork) -> _Parameters:
    sizes = [parameter.numel() for parameter in network.parameters()]
    return _Parameters(_FLOAT_BYTES * sum(sizes), max(sizes))


def _pair_step(
    network: RegistrationNetwork, objective: Objective, moving: Tensor, fixed: Tensor
) -> None:
    bound = objective.bind(moving, fixed)
    torch.autograd.backward(bound(network(moving, fixed), torch.Generator()).total)


def _network(plan: Plan) -> RegistrationNetwork:
    return build_network(plan.network, len(plan.fixed_modalities))


def _images(plan: Plan, pairs: int) -> tuple[Tensor, Tensor]:
    shape = (pairs, len(plan.fixed_modalities), *plan.grid.shape)
    return torch.zeros(shape), torch.zeros(shape)


@contextmanager
def _fake_run() -> Iterator["_StorageCounter"]:
    """Inside, tensors have shapes and lifetimes but no data, and are counted."""
    counter = _StorageCounter()
    with FakeTensorMode(), counter:
        yield counter


class _StorageCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
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
            args[0].shape, result.shape, transposed=args[6], backward=False
        )
    if func is _CONVOLUTION_BACKWARD:
        return convolution_workspace(
            args[1].shape, args[0].shape, transposed=args[7], backward=True
        )
    return 0
