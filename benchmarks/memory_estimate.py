"""Planned against measured peak memory: one training step, one IO step, one prediction.

    python benchmarks/memory_estimate.py [--device cuda] [--full]

Each measurement runs in a fresh process, as a command would: on the CPU the peak resident size,
on CUDA the peak that torch reserved. Printed is estimate / measured.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from autoreg.command import resolve_device, set_passive_threads, steady_heap
from autoreg.plan import (
    AlignmentPlan,
    AugmentationPlan,
    GridPlan,
    InstanceOptimisationPlan,
    IntensityPlan,
    LossPlan,
    MemoryPlan,
    NetworkPlan,
    Plan,
    Shape,
    TrainingPlan,
)

JOBS = ("training", "instance_optimisation", "prediction")


@dataclass(frozen=True)
class Setting:
    """What is varied."""

    shape: Shape
    width: float
    batch: int = 1
    similarity: str = "lncc"


CPU_SETTINGS = (
    Setting((48, 48, 48), 1.0),
    Setting((64, 64, 64), 0.5),
    Setting((96, 80, 64), 0.5),
    Setting((40, 72, 56), 0.25, batch=2),
    Setting((64, 64, 64), 0.5, similarity="mind"),
    Setting((32, 32, 32), 0.25),
)
LARGE_SETTINGS = (
    Setting((128, 128, 128), 1.0),
    Setting((175, 175, 175), 1.0),
    Setting((175, 175, 175), 1.0, batch=4),
)


def make_plan(setting: Setting) -> Plan:
    """A plan of these settings; the rest is as published."""
    levels = (0.25, 0.5, 1.0, 1.0)
    augmentation = AugmentationPlan(50, 0.5, 10.0, 5.0, 0.03, 0.5, 0, 0.1, 0.2)
    return Plan(
        format=1,
        configuration="benchmark",
        dataset="benchmark",
        budget="cpu",
        fixed_modalities=("MR",),
        moving_modalities=("MR",),
        labels={},
        grid=GridPlan(setting.shape, (1.0, 1.0, 1.0), False),
        alignment=AlignmentPlan("centres"),
        intensity={"MR": IntensityPlan("quantiles", 0.0, 0.99)},
        network=NetworkPlan("gradicon", levels, setting.width),
        loss=LossPlan(setting.similarity, {}, "gradicon", 1.5),
        training=TrainingPlan(80, 64, 100, setting.batch, 5e-5, augmentation, 5, 0),
        instance_optimisation=InstanceOptimisationPlan(
            "gradient_projection", "random_one", 3, "amsgrad", 2e-5, 1e-3, 0, 0.0, 0
        ),
        memory=MemoryPlan(0, 0, 0, 0),
    )


def measure(setting: Setting, job: str, device_name: str) -> int:
    """Peak bytes of a job in a fresh process."""
    shape = ",".join(map(str, setting.shape))
    command = [sys.executable, __file__, "--device", device_name, "--one"]
    arguments = [job, shape, str(setting.width), str(setting.batch), setting.similarity]
    result = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise SystemExit(f"{job} at {setting}: {result.stderr.strip()}")
    return int(result.stdout.split()[-1])


def run_job(arguments: list[str], device_name: str) -> None:
    """The measured process: do a job as the commands do and print the peak."""
    set_passive_threads()
    steady_heap()
    import torch

    import autoreg.inference.cli
    import autoreg.io.images
    import autoreg.planning.preprocess
    import autoreg.training.batches  # noqa: F401 - a command has these in memory
    from autoreg.networks.factory import build_network
    from autoreg.registration.objective import Objective

    job, shape, width, batch, similarity = arguments
    depth, height, breadth = (int(n) for n in shape.split(","))
    setting = Setting((depth, height, breadth), float(width), int(batch), similarity)
    plan, device = make_plan(setting), resolve_device(device_name)
    count = setting.batch if job == "training" else 1
    network = build_network(plan.network, 1).to(device)
    fixed, moving = (torch.rand(count, 1, *setting.shape, device=device) for _ in range(2))
    objective = Objective.from_plan(plan.loss)
    jobs: dict[str, Callable[[], None]] = {
        "training": lambda: train(plan, network, objective, moving, fixed),
        "instance_optimisation": lambda: optimise_pair(plan, network, objective, moving, fixed),
        "prediction": lambda: predict(network, moving, fixed),
    }
    jobs[job]()
    print(torch.cuda.max_memory_reserved(device) if device.type == "cuda" else peak_rss())


def train(plan, network, objective, moving, fixed) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
    """Three steps as the trainer takes them."""
    import torch

    optimiser = torch.optim.Adam(network.parameters(), lr=plan.training.learning_rate)
    generator = torch.Generator().manual_seed(0)
    network.train()
    for _ in range(3):
        maps = network(moving, fixed)
        loss = objective.bind(moving, fixed)(maps, generator)
        optimiser.zero_grad(set_to_none=True)
        loss.total.backward()
        optimiser.step()


def optimise_pair(plan, network, objective, moving, fixed) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
    """Instance optimisation, weights put back afterwards."""
    from autoreg.registration.instance_optimisation import optimise, preserved

    with preserved(network):
        optimise(network, objective.bind(moving, fixed), plan.instance_optimisation)


def predict(network, moving, fixed) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
    """One direction's dense map of a network in eval mode."""
    import torch

    network.eval()
    with torch.no_grad():
        network(moving, fixed).fixed_to_moving.dense(fixed.shape[2:])


def peak_rss() -> int:
    """Highest resident size of this process so far, bytes (Linux)."""
    status = Path("/proc/self/status").read_text("ascii")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--full", action="store_true", help="also 128^3 and 175^3")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        run_job(arguments.one, arguments.device)
        return 0
    from autoreg.planning.memory import estimate_memory

    cuda = arguments.device.startswith("cuda")
    settings = (*CPU_SETTINGS, *(LARGE_SETTINGS if arguments.full else ()))
    print(f"{'grid':>14} {'width':>5} {'batch':>5} {'loss':>6}  {'job':<22}"
          f"{'estimate':>10} {'measured':>10} {'ratio':>6}")  # fmt: skip
    for setting in settings:
        plan = make_plan(setting)
        estimate = estimate_memory(replace(plan), limit=0, cuda=cuda)
        for job in JOBS:
            planned, found = getattr(estimate, job), measure(setting, job, arguments.device)
            grid = "x".join(map(str, setting.shape))
            print(
                f"{grid:>14} {setting.width:>5} {setting.batch:>5} {setting.similarity:>6}  "
                f"{job:<22}{planned / 2**20:>9.0f}M {found / 2**20:>9.0f}M {planned / found:>6.3f}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
