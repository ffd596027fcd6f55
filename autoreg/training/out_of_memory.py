"""What to change when the memory does not suffice."""

from typing import TYPE_CHECKING

from autoreg.plan import Plan
from autoreg.training.processes import ALONE, Processes

if TYPE_CHECKING:
    import torch


def memory_advice(plan: Plan, device: "torch.device", processes: Processes = ALONE) -> str:
    """What of a plan would save memory and isn't used yet, the least harmful first.

    Args:
        plan: Of the training.
        device: That it ran on.
        processes: That share each batch.

    Returns:
        A sentence that goes on after "out of memory ...: ".
    """
    ways = [*_in_parts(plan, processes), *_computed_twice(plan)]
    if processes.local_count > 1 and device.type == "cpu":
        ways.append("fewer processes on this machine, whose memory they share")
    if plan.training.precision == "float32" and device.type == "cuda":
        ways.append(
            '"precision": "bfloat16" in the plan\'s training (saves little, rounds in convolutions)'
        )
    ways.append(
        "a plan for a smaller budget (autoreg_plan --budget ..., then autoreg_preprocess: a "
        "coarser grid or a smaller network)"
    )
    listed = "; ".join(f"({number}) {way}" for number, way in enumerate(ways, 1))
    return f"what saves memory, the least harmful first: {listed}"


def _in_parts(plan: Plan, processes: Processes) -> list[str]:
    training = plan.training
    # Each process's share is computed in parts, and a part of no process is empty.
    most = training.batch_size // processes.count
    if training.accumulation_steps >= most:
        return []
    cycles = training.group_consistency
    if cycles.weight > 0 and cycles.from_epoch == 0:
        return []  # their pairs are computed singly anyway
    has_norms = plan.network.architecture == "gradicon" or (
        plan.network.architecture == "transmorph" and plan.network.variant == "time_varying"
    )
    changes = has_norms and training.batch_norm == "batch"
    effect = "batch normalisation then sees one part at a time" if changes else "same gradients"
    if cycles.weight > 0:
        effect = f"of no use in cycles, from epoch {cycles.from_epoch + 1} on; {effect}"
    return [f"--accumulation-steps {most} ({effect})"]


def _computed_twice(plan: Plan) -> list[str]:
    if plan.network.checkpointing:
        return []
    return ['"checkpointing": true in the plan\'s network (same gradients, more time)']
