"""SITReg against the authors' own code: CPU seconds, peak memory and difference of the maps.

    python benchmarks/sitreg_cost.py CHECKOUT [--python PYTHON] [--size 64] [--scale 40]

CHECKOUT is a clone of https://github.com/honkamj/SITReg (MIT licence); PYTHON an interpreter that
has torch and composable-mapping. The OASIS configuration on a cube, the same weights and the same
loss for all. Each measurement runs in a fresh process, the variants in turns; printed are the
fewest CPU seconds of a call (one thread), the peak resident size above that before the first
call, and the authors' figures over each.

"prediction" is one map without gradients, "maps" both of them, "step" both with gradients, the
loss (NCC in windows of 7, squared gradients) and the backward pass. The form "upstream" must agree
with the authors' maps up to the tolerance of the inversions (0.01 voxel); the form "own" differs
from them by design.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from autoreg.network_plan import SITRegPlan

# The authors' interpreter runs this file, too, so that autoreg is imported where it is needed.
AUTHORS, OWN, CHECKPOINTING, UPSTREAM = "authors", "own", "own, checkpointing", "upstream"
FORMS = (OWN, CHECKPOINTING, UPSTREAM)
JOBS = ("prediction", "maps", "step")
FEATURES, HEADS = (8, 40, 40, 40), (16, 72, 72, 72)
CONVOLUTIONS, GROUPS, BOUND_SHARE = 2, 2, 0.99
LAST_LAYERS = "final_convolution.conv.weight"
WINDOW = 7
CALLS, WARM_UP_SIZE = 3, 16
# What autoreg's commands do to the heap: peaks come from need, not from fragmentation.
STEADY_HEAP = {"MALLOC_MMAP_THRESHOLD_": str(2**20), "THP_MEM_ALLOC_ENABLE": "1"}

Job = Callable[[], list[Tensor]]
Pair = tuple[Tensor, Tensor]
Parameters = list[Tensor]


@dataclass(frozen=True)
class Work:
    """What a fresh process is to do.

    Attributes:
        variant: "authors" or one of FORMS.
        job: One of JOBS.
        size: Edge of the cube, voxels.
        folder: Of weights.pt; maps are written there.
        checkout: Of the authors' code.
    """

    variant: str
    job: str
    size: int
    folder: Path
    checkout: Path

    def arguments(self) -> list[str]:
        """As `--work` takes it."""
        return [self.variant, self.job, str(self.size), str(self.folder), str(self.checkout)]


@dataclass
class Cost:
    """Of the repetitions so far."""

    seconds: float = float("inf")
    peak_bytes: int = 0

    def add(self, seconds: float, peak_bytes: int) -> None:
        """Keep the fewest seconds and the highest peak."""
        self.seconds = min(self.seconds, seconds)
        self.peak_bytes = max(self.peak_bytes, peak_bytes)


def main() -> int:
    """Print one line per job and variant, then the differences of the maps."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkout", type=Path, nargs="?", help="clone of honkamj/SITReg")
    parser.add_argument("--python", default=sys.executable, help="that has composable-mapping")
    parser.add_argument("--size", type=int, default=64, help="edge of the cube, voxels")
    parser.add_argument("--repeats", type=int, default=2, help="processes per measurement")
    parser.add_argument(
        "--scale",
        type=float,
        default=40.0,
        help="of the last layers' random weights; 40 moves voxels by up to 5, 1 by less than 1",
    )
    parser.add_argument(
        "--steady-heap",
        action="store_true",
        help="the memory settings of autoreg's commands for all, the authors' code included",
    )
    parser.add_argument("--work", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        variant, job, size, folder, checkout = arguments.work
        run(Work(variant, job, int(size), Path(folder), Path(checkout)))
        return 0
    if arguments.checkout is None or not (arguments.checkout / "src" / "model").is_dir():
        parser.error("CHECKOUT must be a clone of honkamj/SITReg (with src/model in it)")
    with tempfile.TemporaryDirectory() as folder:
        save_weights(Path(folder), arguments.scale)
        compare(arguments, Path(folder))
    return 0


def compare(arguments: argparse.Namespace, folder: Path) -> None:
    """Measure everything and print it."""
    extra = STEADY_HEAP if arguments.steady_heap else {}
    print(f"{'job':<12}{'code':<22}{'CPU s':>7}{'peak':>9}{'times faster':>14}{'less memory':>13}")
    for job in JOBS:
        costs = {variant: Cost() for variant in (AUTHORS, *FORMS)}
        for _ in range(arguments.repeats):
            for variant, cost in costs.items():
                work = Work(variant, job, arguments.size, folder, arguments.checkout.resolve())
                python = arguments.python if variant == AUTHORS else sys.executable
                cost.add(*measure(work, python, extra))
        theirs = costs[AUTHORS]
        for variant, cost in costs.items():
            faster, less = theirs.seconds / cost.seconds, theirs.peak_bytes / cost.peak_bytes
            print(
                f"{job:<12}{variant:<22}{cost.seconds:>7.2f}{cost.peak_bytes / 2**20:>8.0f}M"
                f"{faster:>14.2f}{less:>13.2f}",
                flush=True,
            )
    print_differences(folder)


def print_differences(folder: Path) -> None:
    """How far the maps lie from those of the authors' code."""
    theirs = torch.load(maps_file(folder, AUTHORS))
    largest = max(float(u_vox.abs().max()) for u_vox in theirs)
    print(f"largest displacement {largest:.3f} voxels; difference of the maps from the authors':")
    for variant in FORMS:
        pairs = zip(torch.load(maps_file(folder, variant)), theirs, strict=True)
        deviations = torch.cat([(a - b).abs().flatten() for a, b in pairs])
        worst, mean = float(deviations.max()), float(deviations.mean())
        print(f"  {variant:<22}largest {worst:.1e}, mean {mean:.1e} voxels")


def measure(work: Work, python: str, extra: dict[str, str]) -> tuple[float, int]:
    """CPU seconds and peak bytes of a fresh process."""
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
    command = [python, __file__, "--work", *work.arguments()]
    environment = {**os.environ, **threads, **extra}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if result.returncode != 0:
        raise SystemExit(f"{work.variant}, {work.job}: {result.stderr.strip()}")
    seconds, peak = result.stdout.split()[-2:]
    return float(seconds), int(peak)


def run(work: Work) -> None:
    """The measured process: a few calls; prints the fastest and the peak above the start."""
    warnings.simplefilter("ignore")  # the authors' libraries use deprecated parts of torch
    torch.set_num_threads(1)
    torch.set_grad_enabled(work.job == "step")
    weights = torch.load(work.folder / "weights.pt")
    make_job(replace(work, size=WARM_UP_SIZE), weights)()  # libraries load parts at first use
    job = make_job(work, weights)
    before, seconds = memory("VmRSS"), float("inf")
    for _ in range(CALLS):
        start = time.process_time()
        displacements = job()
        seconds = min(seconds, time.process_time() - start)
    print(seconds, memory("VmHWM") - before)
    if work.job == "maps":
        torch.save(displacements, maps_file(work.folder, work.variant))


def make_job(work: Work, weights: dict[str, Tensor]) -> Job:
    """What is timed: does the job once and gives its displacements (voxels)."""
    images = make_images(work.size)
    make = authors_network if work.variant == AUTHORS else our_network
    maps, parameters = make(work, images, weights)

    def step() -> list[Tensor]:
        displacements = maps()
        torch.autograd.grad(loss(images, displacements), parameters)
        return displacements

    return step if work.job == "step" else maps


def our_network(work: Work, images: Pair, weights: dict[str, Tensor]) -> tuple[Job, Parameters]:
    """What computes the displacements of a job (voxels) with autoreg, and the parameters."""
    from autoreg.networks.factory import build_network

    network = build_network(plan_of(work.variant), 1)
    network.load_state_dict(weights)
    shape = (work.size,) * 3

    def maps() -> list[Tensor]:
        if work.job == "prediction":
            return [network.one_direction(*images).displacement_vox(shape)]
        pair = network(*images)
        return [m.displacement_vox(shape) for m in (pair.fixed_to_moving, pair.moving_to_fixed)]

    return maps, list(network.parameters())


def authors_network(work: Work, images: Pair, weights: dict[str, Tensor]) -> tuple[Job, Parameters]:
    """The same with the authors' code."""
    sys.path.insert(0, str(work.checkout / "src"))
    from composable_mapping import DataFormat, sampling_cache

    network = build_authors_network(work.size)
    missing = network.load_state_dict(weights, strict=False)
    if missing.unexpected_keys or not all(k.endswith("_indicator") for k in missing.missing_keys):
        raise SystemExit(f"these weights don't fit the authors' network: {missing}")
    wanted = 1 if work.job == "prediction" else 2

    def maps() -> list[Tensor]:
        with sampling_cache(str(work.size)):  # as in their training; it saves time
            pair = network(*images)[0][:wanted]
            return [m.sample(DataFormat.voxel_displacements()).generate_values() for m in pair]

    return maps, list(network.parameters())


def build_authors_network(size: int) -> nn.Module:
    """The authors' network of the OASIS configuration."""
    import deformation_inversion_layer.fixed_point_iteration as solvers
    from model.activation import ReLUFactory
    from model.normalizer import GroupNormalizerFactory
    from model.sitreg import SITReg
    from model.sitreg.feature_extractor import EncoderFeatureExtractor

    shape, convolutions = [size] * 3, [CONVOLUTIONS] * len(FEATURES)
    stop = {"min_iterations": 2, "max_iterations": 50, "threshold": 1e-2}
    memory_length = solvers.AndersonSolverArguments(memory_length=4)
    forward_stop = solvers.MaxElementWiseAbsStopCriterion(**stop)
    backward_stop = solvers.RelativeL2ErrorStopCriterion(**stop)
    extractor = EncoderFeatureExtractor(
        n_input_channels=1,
        activation_factory=ReLUFactory(),
        n_features_per_resolution=list(FEATURES),
        n_convolutions_per_resolution=convolutions,
        input_shape=shape,
        normalizer_factory=GroupNormalizerFactory(GROUPS),
    )
    network: nn.Module = SITReg(
        feature_extractor=extractor,
        n_transformation_features_per_resolution=list(HEADS),
        n_transformation_convolutions_per_resolution=convolutions,
        affine_transformation_type=None,
        input_voxel_size=[1.0] * 3,
        input_shape=shape,
        transformation_downsampling_factor=[1.0] * 3,
        forward_fixed_point_solver=solvers.AndersonSolver(forward_stop, memory_length),
        backward_fixed_point_solver=solvers.AndersonSolver(backward_stop, memory_length),
        max_control_point_multiplier=BOUND_SHARE,
        activation_factory=ReLUFactory(),
        normalizer_factory=None,
    )
    return network


def plan_of(variant: str) -> "SITRegPlan":
    """The OASIS configuration as a plan."""
    from autoreg.network_plan import SITRegPlan

    return SITRegPlan(
        features=FEATURES,
        feature_convolutions=(CONVOLUTIONS,) * len(FEATURES),
        deformation_features=HEADS,
        deformation_convolutions=CONVOLUTIONS,
        groups=GROUPS,
        normalise_deformations=False,
        bound_share=BOUND_SHARE,
        checkpointing=variant == CHECKPOINTING,
        compatibility="upstream" if variant == UPSTREAM else "own",
    )


def save_weights(folder: Path, scale: float) -> None:
    """Random weights for all variants, the last layers' times `scale`."""
    from autoreg.networks.factory import build_network

    torch.manual_seed(0)
    state = build_network(plan_of(UPSTREAM), 1).state_dict()
    for name, value in state.items():
        if name.endswith(LAST_LAYERS):  # torch's default, whatever autoreg starts with
            nn.init.kaiming_uniform_(value, a=5**0.5).mul_(scale)
    torch.save(state, folder / "weights.pt")


def make_images(size: int) -> Pair:
    """Two smooth random images (1, 1, size, size, size) in [0, 1]."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(2, 1, 8, 8, 8, generator=generator)
    images = functional.interpolate(coarse, size=(size,) * 3, mode="trilinear")
    return images[:1], images[1:]


def loss(images: Pair, displacements: list[Tensor]) -> Tensor:
    """NCC of the warped images plus squared gradients of the displacements."""
    terms = []
    for image, target, u_vox in zip(images, reversed(images), displacements, strict=True):
        gradients = [u_vox.diff(dim=axis).square().mean() for axis in (2, 3, 4)]
        terms.append(torch.stack(gradients).mean() - ncc(warp(image, u_vox), target))
    return torch.stack(terms).sum()


def warp(image: Tensor, u_vox: Tensor) -> Tensor:
    """The image at the nodes plus a displacement (1, 3, size, size, size)."""
    size = image.shape[-1]
    nodes = torch.stack(torch.meshgrid(*[torch.arange(float(size))] * 3, indexing="ij"))
    grid = (2 * (nodes + u_vox) / (size - 1) - 1).flip(1).movedim(1, -1)
    return functional.grid_sample(image, grid, padding_mode="border", align_corners=True)


def ncc(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared correlation in windows."""

    def total(values: Tensor) -> Tensor:
        return functional.avg_pool3d(values, WINDOW, 1, WINDOW // 2, divisor_override=1)

    voxels = WINDOW**3
    sum_1, sum_2 = total(first), total(second)
    cross = total(first * second) - sum_1 * sum_2 / voxels
    variance_1 = total(first.square()) - sum_1.square() / voxels
    variance_2 = total(second.square()) - sum_2.square() / voxels
    return (cross.square() / (variance_1 * variance_2 + 1e-5)).mean()


def maps_file(folder: Path, variant: str) -> Path:
    """Where a variant's maps are."""
    return folder / f"maps_{variant.replace(', ', '_')}.pt"


def memory(field: str) -> int:
    """A line of /proc/self/status (Linux), bytes: VmRSS (now) or VmHWM (highest so far)."""
    status = Path("/proc/self/status").read_text("ascii")
    return 1024 * int(status.split(f"{field}:")[1].split()[0])


if __name__ == "__main__":
    sys.exit(main())
