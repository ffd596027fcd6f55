"""Device budgets: how much memory and time a plan may take."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from autoreg.errors import PlanError
from autoreg.machine import memory_total_bytes
from autoreg.plan import BUDGETS

if TYPE_CHECKING:
    import torch

GIB = 2**30

BudgetName = Literal["cpu", "8gb", "24gb", "80gb"]

# Of the memory that a command could ever get; the rest is for the system and other programs.
_CPU_MEMORY_SHARE = 0.7
# Of a GPU's nominal memory: CUDA's context (about 0.5 GiB), fragmentation, a desktop.
_CUDA_MEMORY_SHARE = 0.9
_CUDA_CONTEXT_BYTES = GIB // 2


@dataclass(frozen=True)
class Budget:
    """What a plan may take.

    Attributes:
        name: As given to --budget.
        cuda: Whether the memory is a GPU's.
        memory_bytes: Limit of the peak.
        grid_voxels: Largest grid, for the sake of time; None: the largest one published.
        pair_seconds: For the instance optimisation of one pair; None: as many steps as published.
        training_hours: For a whole training; None: unlimited.
    """

    name: BudgetName
    cuda: bool
    memory_bytes: int
    grid_voxels: int | None
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
            pair_seconds=120.0,
            training_hours=12.0,
        )
    for known in ("8gb", "24gb", "80gb"):
        if name == known:
            return Budget(
                name=known,
                cuda=True,
                memory_bytes=_cuda_limit(int(known.removesuffix("gb"))),
                grid_voxels=None,
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


def _cuda_limit(gigabytes: int) -> int:
    return int(_CUDA_MEMORY_SHARE * gigabytes * GIB) - _CUDA_CONTEXT_BYTES
