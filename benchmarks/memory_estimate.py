"""Planned against measured peak memory: one training step, one IO step, one prediction.

    python benchmarks/memory_estimate.py [--device cuda] [--full] [--architecture sitreg ...]
        [--jobs training ...] [--variants]

Each measurement runs in a fresh process, as a command would: on the CPU the peak resident size,
on CUDA the peak that torch reserved. Printed is estimate / measured.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autoreg.command import resolve_device, set_passive_threads, steady_heap
from autoreg.io.records import from_plain, to_plain
from autoreg.network_plan import ARCHITECTURES, GradICONPlan, NetworkPlan, Shape
from autoreg.plan import (
    AlignmentPlan,
    GridPlan,
    InstanceOptimisationPlan,
    IntensityPlan,
    LossPlan,
    MemoryPlan,
    Plan,
)
from autoreg.planning import rules_sitreg, rules_transmorph
from autoreg.planning.rules_sitreg import Channels, build_sitreg
from autoreg.planning.rules_transmorph import Size, build_transmorph, choose_window
from autoreg.training_plan import AugmentationPlan, SupervisionPlan, TrainingPlan

JOBS = ("training", "instance_optimisation", "prediction")


@dataclass(frozen=True)
class Setting:
    """What is varied."""

    network: NetworkPlan
    shape: Shape
    name: str
    batch: int = 1
    similarity: str = ""
    training: tuple[tuple[str, object], ...] = ()

    def varied(self, name: str, **training: object) -> "Setting":
        """The same with other values of the training."""
        return replace(self, name=f"{self.name}, {name}", training=tuple(training.items()))


def cascade(
    shape: Shape,
    width: float,
    batch: int = 1,
    similarity: str = "lncc",
    *,
    checkpointing: bool = False,
) -> Setting:
    """A GradICON cascade."""
    network = GradICONPlan((0.25, 0.5, 1.0, 1.0), width, checkpointing)
    name = f"gradicon, width {width:g}" + (", checkpointing" if checkpointing else "")
    return Setting(network, shape, name, batch, similarity)


def sitreg(
    shape: Shape, channels: Channels, batch: int = 1, *, checkpointing: bool = False
) -> Setting:
    """A SITReg network of the planner's."""
    network = build_sitreg(channels, channels.levels, (1.0, 1.0, 1.0), checkpointing=checkpointing)
    name = f"sitreg {channels.features[1]}" + (", checkpointing" if checkpointing else "")
    return Setting(network, shape, name, batch, "windowed_ncc")


def transmorph(shape: Shape, size: Size, batch: int = 1) -> Setting:
    """A TransMorph of the planner's."""
    network = build_transmorph(size, choose_window(shape).value)
    return Setting(
        network, shape, f"transmorph {size.embedding}, {size.variant}", batch, "windowed_ncc"
    )


CPU_SETTINGS = (
    cascade((48, 48, 48), 1.0),
    cascade((64, 64, 64), 0.5),
    cascade((96, 80, 64), 0.5),
    cascade((40, 72, 56), 0.25, batch=2),
    cascade((64, 64, 64), 0.5, similarity="mind"),
    cascade((32, 32, 32), 0.25),
    sitreg((52, 72, 64), rules_sitreg.CPU),
    sitreg((64, 64, 64), rules_sitreg.OASIS),
    sitreg((64, 64, 64), rules_sitreg.OASIS, checkpointing=True),
    sitreg((96, 80, 64), rules_sitreg.OASIS),
    sitreg((64, 64, 64), rules_sitreg.LUMIR),
    sitreg((40, 72, 56), rules_sitreg.CPU, batch=2),
    transmorph((64, 64, 64), rules_transmorph.CPU),
    transmorph((64, 64, 64), rules_transmorph.OASIS),
    transmorph((64, 96, 64), rules_transmorph.BASE),
    transmorph((64, 64, 32), rules_transmorph.CPU, batch=2),
)
_CASCADE = cascade((64, 64, 64), 0.5, batch=4)
_TWICE = cascade((64, 64, 64), 0.5, batch=4, checkpointing=True)
_SITREG = sitreg((64, 64, 64), rules_sitreg.OASIS, batch=2)
_KEPT = transmorph((64, 64, 64), rules_transmorph.CPU)
VARIANTS = (
    _CASCADE,
    _TWICE,
    _CASCADE.varied("4 parts", accumulation_steps=4),
    _TWICE.varied("2 parts", accumulation_steps=2),
    _CASCADE.varied("bfloat16", precision="bfloat16"),
    _TWICE.varied("bfloat16", precision="bfloat16"),
    _TWICE.varied("projection", gradients="gradient_projection"),
    _TWICE.varied("projection, 2 parts", gradients="gradient_projection", accumulation_steps=2),
    _TWICE.varied("masks", supervision=SupervisionPlan(masks=True)),
    _TWICE.varied("labels", supervision=SupervisionPlan(dice_weight=1.0)),
    _SITREG.varied("2 parts", accumulation_steps=2),
    _SITREG.varied("bfloat16", precision="bfloat16"),
    _SITREG.varied("projection", gradients="gradient_projection"),
    _KEPT.varied("bfloat16", precision="bfloat16"),
    replace(
        _KEPT,
        network=replace(_KEPT.network, checkpointing=False),
        name="transmorph 48, half, nothing twice",
    ),
)
LARGE_SETTINGS = (
    cascade((128, 128, 128), 1.0),
    # What is planned for 8 GB.
    cascade((124, 176, 152), 1.0, batch=4, checkpointing=True).varied(
        "2 parts", accumulation_steps=2
    ),
    cascade((175, 175, 175), 1.0),
    cascade((175, 175, 175), 1.0, batch=4),
    sitreg((156, 220, 188), rules_sitreg.OASIS),
    sitreg((156, 220, 188), rules_sitreg.LUMIR),
    transmorph((160, 224, 192), rules_transmorph.BASE),
)


def make_plan(setting: Setting) -> Plan:
    """A plan of these settings; the rest is as published."""
    regularity = "gradicon" if setting.network.architecture == "gradicon" else "diffusion"
    optimiser = "amsgrad" if setting.network.architecture == "transmorph" else "adam"
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
        network=setting.network,
        loss=LossPlan(setting.similarity, {}, regularity, 1.5),
        training=replace(
            TrainingPlan(80, 64, 100, setting.batch, 5e-5, augmentation, 5, 0, optimiser=optimiser),
            **dict(setting.training),
        ),
        instance_optimisation=InstanceOptimisationPlan(
            "gradient_projection", "random_one", 3, "amsgrad", 2e-5, 1e-3, 0, 0.0, 0
        ),
        memory=MemoryPlan(0, 0, 0, 0),
    )


def measure(setting: Setting, job: str, device_name: str) -> int:
    """Peak bytes of a job in a fresh process."""
    command = [sys.executable, __file__, "--device", device_name, "--job", job]
    plan = json.dumps(to_plain(make_plan(setting)))
    result = subprocess.run(command, input=plan, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise SystemExit(f"{job} at {setting}: {result.stderr.strip()}")
    return int(result.stdout.split()[-1])


def run_job(job: str, device_name: str) -> None:
    """The measured process: do a job with a plan from stdin as the commands do; print the peak."""
    set_passive_threads()
    steady_heap()
    import torch

    import autoreg.inference.cli
    import autoreg.io.images
    import autoreg.planning.preprocess
    import autoreg.training.batches  # noqa: F401 - a command has these in memory
    from autoreg.networks.factory import build_network
    from autoreg.registration.objective import Objective

    plan, device = from_plain(Plan, json.load(sys.stdin), "stdin"), resolve_device(device_name)
    count = plan.training.batch_size if job == "training" else 1
    network = build_network(plan.network, 1).to(device)
    fixed, moving = (torch.rand(count, 1, *plan.grid.shape, device=device) for _ in range(2))
    objective = Objective.from_plan(plan)
    jobs: dict[str, Callable[[], None]] = {
        "training": lambda: train(plan, network, objective, moving, fixed),
        "instance_optimisation": lambda: optimise_pair(plan, network, objective, moving, fixed),
        "prediction": lambda: predict(network, moving, fixed),
    }
    jobs[job]()
    print(torch.cuda.max_memory_reserved(device) if device.type == "cuda" else peak_rss())


def train(plan, network, objective, moving, fixed) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
    """Three steps as the trainer takes them, after the figure of a first validation."""
    import io

    import torch
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from autoreg.networks.precision import set_precision
    from autoreg.training.gradients import GradientRule, GradientSum
    from autoreg.training.steps import StepDraws, StepLoss, backward_pairs
    from autoreg.training.supervision import supervision_loss

    supervision = plan.training.supervision
    figure = Figure(figsize=(10, 12))
    figure.subplots(3)[0].plot([0, 1])
    FigureCanvasAgg(figure).print_png(io.BytesIO())
    optimiser = torch.optim.Adam(
        network.parameters(),
        lr=plan.training.learning_rate,
        amsgrad=plan.training.optimiser == "amsgrad",
    )
    network.train()
    set_precision(network, plan.training.precision)
    loss = StepLoss(objective, lambda maps, part: supervision_loss(maps, part, supervision, ()))
    draws = StepDraws(lambda number: None, lambda: torch.Generator().manual_seed(0))
    batch = _batch(supervision, moving, fixed)
    for _ in range(3):
        gradients = GradientSum(network, GradientRule(plan.training))
        parts = batch.parts(plan.training.accumulation_steps)
        backward_pairs(network, loss, parts, draws, gradients)
        gradients.finish(torch.Generator().manual_seed(0))
        optimiser.step()


def _batch(supervision, moving, fixed):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Images with what a supervision needs."""
    import torch

    from autoreg.io.cases import Pair
    from autoreg.training.batches import PairBatch

    count, only = len(fixed), fixed[:, :1]
    return PairBatch(
        fixed,
        moving,
        (Pair("", ""),) * count,
        fixed_mask=torch.ones_like(only, dtype=torch.bool) if supervision.masks else None,
        moving_mask=torch.ones_like(only, dtype=torch.bool) if supervision.masks else None,
        fixed_labels=(5 * only).to(torch.int16) if supervision.dice_weight else None,
        moving_labels=(5 * moving[:, :1]).to(torch.int16) if supervision.dice_weight else None,
        has_labels=(supervision.dice_weight > 0,) * count,
    )


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
    parser.add_argument("--architecture", nargs="+", choices=ARCHITECTURES, default=ARCHITECTURES)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=JOBS)
    parser.add_argument(
        "--variants", action="store_true", help="only training, in parts, in 16 bits, ..."
    )
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        run_job(arguments.job, arguments.device)
        return 0
    settings = (*CPU_SETTINGS, *(LARGE_SETTINGS if arguments.full else ()))
    jobs = tuple(arguments.jobs)
    if arguments.variants:
        settings, jobs = VARIANTS, ("training",)
    print(f"{'network':>54} {'grid':>12} {'batch':>5} {'loss':>12}  {'job':<22}"
          f"{'estimate':>10} {'measured':>10} {'ratio':>6}")  # fmt: skip
    for setting in settings:
        if setting.network.architecture in arguments.architecture:
            compare(setting, arguments.device, jobs)
    return 0


def compare(setting: Setting, device: str, jobs: Sequence[str]) -> None:
    """Print the lines of a setting."""
    from autoreg.planning.memory import estimate_memory

    estimate = estimate_memory(make_plan(setting), limit=0, cuda=device.startswith("cuda"))
    for job in jobs:
        planned, found = getattr(estimate, job), measure(setting, job, device)
        grid = "x".join(map(str, setting.shape))
        print(
            f"{setting.name:>54} {grid:>12} {setting.batch:>5} {setting.similarity:>12}  "
            f"{job:<22}{planned / 2**20:>9.0f}M {found / 2**20:>9.0f}M {planned / found:>6.3f}",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
