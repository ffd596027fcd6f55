"""The processes of one training: a single one, or those that `torchrun` has started.

Every process holds the whole network and computes its share of each batch; sums over all of them
make their gradients, and with these their weights, equal. The first one alone writes files.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed
from torch import Tensor

from autoreg.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process among those of the training.

    Attributes:
        rank: Its number, counted from 0.
        count: Number of processes.
        local_rank: Its number among those of this machine.
        local_count: Number of processes on this machine.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether it is the one that writes files and logs."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over all processes; it is returned as well."""
        if self.count > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def largest_(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its maximum over all processes; it is returned as well."""
        if self.count > 1:
            torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
        return tensor

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in their order; plain data, the same list everywhere."""
        if self.count == 1:
            return [value]
        values: list[T | None] = [None] * self.count
        torch.distributed.all_gather_object(values, value)
        return [one for one in values if one is not None]

    def share(self, count: int) -> slice:
        """Which of so many things are this process's: consecutive ones, as evenly as possible."""
        return slice(self.rank * count // self.count, (self.rank + 1) * count // self.count)


ALONE = Processes()


def started_processes() -> Processes:
    """What `torchrun` says in the environment; a single process without it.

    Raises:
        UsageError: if the environment says it incompletely.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    found = {name: os.environ[name] for name in names if name in os.environ}
    if "WORLD_SIZE" not in found or found["WORLD_SIZE"] == "1":
        return ALONE
    missing = [name for name in names if not found.get(name, "").isdecimal()]
    if missing:
        raise UsageError(
            f"WORLD_SIZE is set to {found['WORLD_SIZE']}, but {', '.join(missing)} is not set to a "
            "number; start several processes with torchrun, or unset WORLD_SIZE for a single one"
        )
    rank, count, local_rank, local_count = (int(found[name]) for name in names)
    return Processes(rank, count, local_rank, local_count)


def device_of(device: torch.device, processes: Processes) -> torch.device:
    """The device of this process: each one of a machine has a CUDA device of its own.

    Args:
        device: What was asked for.
        processes: That train together.

    Raises:
        UsageError: if a single CUDA device was asked for, or there are too few.
    """
    if processes.count == 1 or device.type != "cuda":
        return device
    if device.index is not None:
        raise UsageError(
            f"--device {device} is one device and there are {processes.count} processes; give "
            "--device cuda, and CUDA_VISIBLE_DEVICES to choose among the devices"
        )
    found = torch.cuda.device_count()
    if processes.local_rank >= found:
        raise UsageError(
            f"{processes.local_count} processes on this machine and {found} CUDA devices; start "
            f"torchrun with --nproc-per-node {found}"
        )
    return torch.device("cuda", processes.local_rank)


@contextmanager
def connected(processes: Processes, device: torch.device) -> Iterator[None]:
    """Connect the processes with each other inside the block (NCCL on CUDA, gloo on the CPU)."""
    if processes.count == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()
