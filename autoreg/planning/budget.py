"""Device budgets: how much memory and time a plan may take."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from autoreg.errors import PlanError
from autoreg.machine import memory_total_bytes
from autoreg.plan import BUDGETS

if TYPE_CHECKING:
    import torch

GIB = 2**30
PUBLISHED_NODES = 175

BudgetName = Literal["cpu", "8gb", "24gb", "80gb"]

# Of the memory that a command could ever get; the rest is for the system and other programs.
_CPU_MEMORY_SHARE = 0.7
# Of a GPU's nominal memory: CUDA's context (about 0.5 GiB), fragmentation, a desktop.
_CUDA_MEMORY_SHARE = 0.9
_CUDA_CONTEXT_BYTES = GIB // 2

# One instance optimisation step costs about 6.5 us per voxel beside the network (similarity,
# sampling, regularity), and the network's one forward and two backward passes 0.3 us per voxel and
# 1000 multiply-adds of the forward pass: CPU seconds of one core of a 2-core cloud machine under
# load, at 64^3 and width 1, 0.5 and 0.25 (6.3, 2.9 and 2.1 s per step).
_SECONDS_PER_VOXEL = 6.5e-6
_SECONDS_PER_VOXEL_AND_MAC = 0.3e-9
# A training step has one backward pass less: 2.2 instead of 2.9 s at 64^3 and width 0.5.
_TRAINING_SHARE = 0.75


@dataclass(frozen=True)
class Budget:
    """What a plan may take.

    Attributes:
        name: As given to --budget.
        cuda: Whether the memory is a GPU's.
        memory_bytes: Limit of the peak.
        grid_voxels: Largest grid, for the sake of time.
        width: Of the network.
        largest_batch: Pairs per training step at most.
        pair_seconds: For the instance optimisation of one pair; None: as many steps as published.
        training_hours: For a whole training; None: unlimited.
    """

    name: BudgetName
    cuda: bool
    memory_bytes: int
    grid_voxels: int
    width: float
    largest_batch: int
    pair_seconds: float | None
    training_hours: float | None


def get_budget(name: str) -> Budget:
    """The budget of that name; that of "cpu" asks this machine for its memory.

    Raises:
        PlanError: if the name is unknown.
    """
    if name == "cpu":
        return Budget(
            name="cpu",
            cuda=False,
            memory_bytes=int(_CPU_MEMORY_SHARE * memory_total_bytes()),
            grid_voxels=64**3,
            width=0.5,
            largest_batch=1,
            pair_seconds=120.0,
            training_hours=12.0,
        )
    for known in ("8gb", "24gb", "80gb"):
        if name == known:
            return Budget(
                name=known,
                cuda=True,
                memory_bytes=_cuda_limit(int(known.removesuffix("gb"))),
                grid_voxels=PUBLISHED_NODES**3,
                width=1.0,
                largest_batch=4,
                pair_seconds=None,
                training_hours=None,
            )
    raise PlanError(f'--budget "{name}" is unknown; known: {", ".join(BUDGETS)}')


def detect_budget(device: "torch.device") -> Budget:
    """The largest budget that a device holds.

    Args:
        device: The one that will compute.

    Returns:
        "80gb", "24gb" or "8gb" by a CUDA device's memory; "cpu" for the CPU or a smaller GPU.
    """
    if device.type != "cuda":
        return get_budget("cpu")
    import torch

    memory = torch.cuda.get_device_properties(device).total_memory
    for name in ("80gb", "24gb", "8gb"):
        # Cards are sold in rounded sizes: one of "80 GB" may report 79.1 GiB, or 74.5.
        if memory >= 0.92 * int(name.removesuffix("gb")) * GIB:
            return get_budget(name)
    return get_budget("cpu")


def macs_per_voxel(level_factors: Sequence[float], width: float, channels: int) -> float:
    """Multiply-adds of the cascade's convolutions, both directions, per voxel of the grid.

    Example:
        >>> round(macs_per_voxel((0.25, 0.5, 1, 1), 1.0, 1))  # published: 60.5 thousand
        60529
    """
    down = [2 * channels, *(max(1, round(c * width)) for c in (16, 32, 64, 256, 512))]
    up = [*(max(1, round(c * width)) for c in (16, 32, 64, 128, 256)), 0]
    unet: float = 27 * (up[0] + down[0]) * 3
    for i in range(5):
        unet += 27 * down[i] * down[i + 1] / 8 ** (i + 1)
        unet += 64 * (down[i + 1] + up[i + 1]) * up[i] / 8 ** (i + 1)
    return 2 * unet * sum(factor**3 for factor in level_factors)


def cpu_step_seconds(voxels: int, macs: float) -> float:
    """Conservative seconds of one instance optimisation step on a CPU (one core).

    Args:
        voxels: Of the grid.
        macs: See `macs_per_voxel`.
    """
    return voxels * (_SECONDS_PER_VOXEL + _SECONDS_PER_VOXEL_AND_MAC * macs)


def cpu_training_seconds(voxels: int, macs: float) -> float:
    """Conservative seconds of training on one pair on a CPU (one core)."""
    return _TRAINING_SHARE * cpu_step_seconds(voxels, macs)


def _cuda_limit(gigabytes: int) -> int:
    return int(_CUDA_MEMORY_SHARE * gigabytes * GIB) - _CUDA_CONTEXT_BYTES
