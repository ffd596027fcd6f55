"""What to change when the memory does not suffice."""

from typing import TYPE_CHECKING

from autoreg.plan import Plan

if TYPE_CHECKING:
    import torch

# Of torch, CUDA's libraries and the CPU's allocator, where these raise a plain RuntimeError.
_SIGNS = (
    "out of memory",
    "can't allocate memory",
    "cuda_error_out_of_memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "cudnn_status_internal_error_host_allocation_failed",
    "cusolver_status_alloc_failed",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or what it was raised from, says that memory was exhausted.

    Args:
        error: Of a training, from the device or the CPU.
    """
    import torch

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError | torch.OutOfMemoryError):
            return True
        text = str(cause).lower()
        if isinstance(cause, RuntimeError) and any(sign in text for sign in _SIGNS):
            return True
        cause = cause.__cause__
    return False


def memory_advice(plan: Plan, device: "torch.device") -> str:
    """What of a plan would save memory and isn't used yet, the least harmful first.

    Args:
        plan: Of the training.
        device: That it ran on.

    Returns:
        A sentence that goes on after "out of memory ...: ".
    """
    ways = [*_in_parts(plan), *_computed_twice(plan)]
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


def _in_parts(plan: Plan) -> list[str]:
    training = plan.training
    if training.accumulation_steps >= training.batch_size:
        return []
    has_norms = plan.network.architecture == "gradicon" or (
        plan.network.architecture == "transmorph" and plan.network.variant == "time_varying"
    )
    changes = has_norms and training.batch_norm == "batch"
    effect = "batch normalisation then sees one part at a time" if changes else "same gradients"
    return [f"--accumulation-steps {training.batch_size} ({effect})"]


def _computed_twice(plan: Plan) -> list[str]:
    if plan.network.checkpointing:
        return []
    return ['"checkpointing": true in the plan\'s network (same gradients, more time)']
