"""How much memory a plan needs, found by running its network without computing anything.

The real network and the real objective run on fake tensors (shapes without data), forward and
backward, while every storage that comes and goes is counted: the highest sum is the peak. Added to
it are what a convolution needs while it runs, the optimiser's state, and what the process holds
before any tensor.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from autoreg.networks.base import RegistrationNetwork
from autoreg.networks.factory import build_network
from autoreg.networks.precision import set_precision
from autoreg.plan import MemoryPlan, Plan
from autoreg.planning.fake_run import fake_run
from autoreg.registration.field_network import optimised_network
from autoreg.registration.objective import Objective, PairObjective

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
_LABEL_BYTES_PER_VOXEL = 2 * 4 + 2 * 2 * 4 + 2 * 3 * 4
_LABEL_PIECE_BYTES = 60 * MIB
_FLOAT_BYTES = 4

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


def training_bytes(plan: Plan, *, cuda: bool, processes: int = 1) -> int:
    """Peak of one training step on pairs at the planned batch size, both directions in turn.

    Of a batch in parts, the largest part decides; the gradients of the part before are kept
    meanwhile. Masks count where training uses them, label maps and landmarks as
    `supervision_bytes` says.

    Args:
        plan: See `estimate_memory`.
        cuda: See `estimate_memory`.
        processes: That share the batch; the peak is that of the one with the largest share.
    """
    training = plan.training
    count = min(training.accumulation_steps, max(1, training.batch_size // processes))
    part = math.ceil(math.ceil(training.batch_size / processes) / count)
    step = _projected_step if training.gradients == "gradient_projection" else _pair_step

    def parts(
        network: RegistrationNetwork, objective: Objective, moving: Tensor, fixed: Tensor
    ) -> None:
        masked = training.supervision.masks
        mask = torch.zeros_like(fixed[:, :1]) if masked else None
        kept: list[Tensor] = []
        # The second part stands for all further ones.
        for _ in range(min(2, count)):
            bound = objective.bind(moving, fixed, mask, mask)
            step(network, bound, moving, fixed, kept)

    needed = step_bytes(plan, parts, part, cuda=cuda, joined=processes > 1)
    return needed + supervision_bytes(plan, part)


def step_bytes(
    plan: Plan, step: TrainingStep, pairs: int, *, cuda: bool, joined: bool = False
) -> int:
    """Peak of a training step.

    Args:
        plan: See `estimate_memory`.
        step: Adds to the gradients of a network in training mode; numbers that it takes from
            tensors are 0.
        pairs: Of images that it is given.
        cuda: See `estimate_memory`.
        joined: Whether all gradients are copied into one message for other processes.
    """
    with fake_run() as counter:
        network, (moving, fixed) = _network(plan), _images(plan, pairs)
        network.train()
        set_precision(network, plan.training.precision)
        weights = _parameters(network)
        counter.restart_peak()
        step(network, Objective.from_plan(plan), moving, fixed)
    # The last step's gradients are gone by then, the optimiser's moments are not.
    moments = _moments(plan.training.optimiser)
    running = counter.peak + moments * weights.total
    # Two gradients and what becomes of them, where they are projected.
    projects = plan.training.gradients == "gradient_projection"
    updating = _update_peak(weights, moments + (3 if projects else 1), cuda=cuda)
    sums = 2 if projects else 1  # the message is gone before the weights are updated
    summing = (1 + moments + 2 * sums) * weights.total if joined else 0
    figure = 0 if cuda else CPU_FIGURE_BYTES
    return max(running, updating, summing) + _runtime_bytes(cuda) + _optimiser_bytes(cuda) + figure


def instance_optimisation_bytes(plan: Plan, *, cuda: bool, native_voxels: int = 0) -> int:
    """Peak of a pair with IO, whatever the mode: two backward passes through one graph."""
    io = plan.instance_optimisation
    with fake_run() as counter:
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
    with fake_run() as counter, torch.no_grad():
        network, bound = _network(plan), Objective.from_plan(plan).bind(*_images(plan, 1))
        network.eval()
        weights = _parameters(network)
        counter.restart_peak()
        maps = network(bound.moving, bound.fixed)
        dense = maps.fixed_to_moving.dense(plan.grid.shape)
        del maps, dense
    computing, exporting = _native_bytes(plan, native_voxels, cuda)
    return max(counter.peak + computing, weights.total + exporting) + _runtime_bytes(cuda)


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
    network: RegistrationNetwork,
    bound: PairObjective,
    moving: Tensor,
    fixed: Tensor,
    kept: list[Tensor],
) -> None:
    """Add to the gradients in `.grad`."""
    torch.autograd.backward(bound(network(moving, fixed), torch.Generator()).total)


def _projected_step(
    network: RegistrationNetwork,
    bound: PairObjective,
    moving: Tensor,
    fixed: Tensor,
    kept: list[Tensor],
) -> None:
    """Add to the gradients of similarity and regularity, which are kept apart."""
    loss, parameters = bound(network(moving, fixed), torch.Generator()), list(network.parameters())
    first = torch.autograd.grad(
        loss.similarity, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    kept.extend(first if not kept else ())
    second = torch.autograd.grad(
        loss.weighted_regularity, parameters, allow_unused=True, materialize_grads=True
    )
    kept.extend(second if len(kept) == len(parameters) else ())


def supervision_bytes(plan: Plan, pairs: int) -> int:
    """What label maps add to a step on so many pairs, estimated.

    Per voxel of a pair: both label maps, both once more with numbered structures for each
    direction, and the gradient of each map's points; besides, one piece that is worked on at a
    time. Landmarks are too few to count.

    Args:
        plan: Of the training.
        pairs: Computed at a time.
    """
    if plan.training.supervision.dice_weight == 0:
        return 0
    return pairs * math.prod(plan.grid.shape) * _LABEL_BYTES_PER_VOXEL + _LABEL_PIECE_BYTES


def _network(plan: Plan) -> RegistrationNetwork:
    return build_network(plan.network, len(plan.fixed_modalities))


def _images(plan: Plan, pairs: int) -> tuple[Tensor, Tensor]:
    shape = (pairs, len(plan.fixed_modalities), *plan.grid.shape)
    return torch.zeros(shape), torch.zeros(shape)
