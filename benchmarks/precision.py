"""Does training in 16 bits do harm? The same small networks trained in each precision.

    python benchmarks/precision.py [--device cuda] [--steps 100] [--seeds 1] [--architecture ...]

Pairs are made on the way: one subject of six blobs, the fixed image being the moving one under a
known smooth displacement that differs from pair to pair, with other brightness and noise. Every
precision sees the same pairs and begins with the same weights. Measured on held-out pairs, in
float32: the mean distance between found and true displacement in the structures, Dice, folded share
of the volume; and of the training the processor's seconds (on CUDA: the clock's) and the peak of
memory. Each training runs in a fresh process.

float16 is tried on CUDA only: on a CPU its convolutions take ten to a hundred times longer.
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from autoreg.command import resolve_device, set_passive_threads, steady_heap
from autoreg.losses.factory import build_regularity, build_similarity
from autoreg.losses.folding import folded_volume
from autoreg.network_plan import ARCHITECTURES, GradICONPlan, NetworkPlan, TransMorphPlan
from autoreg.networks.base import RegistrationNetwork
from autoreg.networks.factory import build_network
from autoreg.networks.precision import set_precision
from autoreg.numerics.coordinates import index_grid
from autoreg.numerics.precision import float32_exactly
from autoreg.numerics.warp import sample_at_index
from autoreg.plan import LossPlan
from autoreg.planning.rules_sitreg import CPU, build_sitreg
from autoreg.registration.objective import Objective

SHAPE = (32, 32, 32)
SPACING_MM = (1.0, 1.0, 1.0)
STRUCTURES = 6
HELD_OUT = 6
AMPLITUDE_VOX = 2.0
SUBJECT = 12345

NETWORKS: dict[str, NetworkPlan] = {
    "gradicon": GradICONPlan((0.5, 1.0), 0.25),
    "sitreg": build_sitreg(CPU, 3, SPACING_MM, checkpointing=False),
    "transmorph": TransMorphPlan(
        variant="half", embedding=24, depths=(2, 2, 2, 2), heads=(2, 2, 2, 2), window=(2, 2, 2),
        drop_path=0.0,
    ),
}  # fmt: skip
RATES = {"gradicon": 2e-3, "sitreg": 2e-3, "transmorph": 2e-3}


@dataclass(frozen=True)
class KnownPair:
    """A pair with its answer.

    Attributes:
        moving: (1, 1, D, H, W).
        fixed: (1, 1, D, H, W).
        moving_labels: (1, 1, D, H, W), 0 outside structures.
        fixed_labels: The same.
        u_vox: (1, 3, D, H, W): fixed(p) = moving(p + u(p)).
    """

    moving: Tensor
    fixed: Tensor
    moving_labels: Tensor
    fixed_labels: Tensor
    u_vox: Tensor


def known_pair(seed: int) -> KnownPair:
    """The subject under a displacement; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    subject = torch.Generator().manual_seed(SUBJECT)

    def smooth(channels: int, nodes: int, generator: torch.Generator) -> Tensor:
        coarse = torch.randn(1, channels, nodes, nodes, nodes, generator=generator)
        return functional.interpolate(coarse, size=SHAPE, mode="trilinear", align_corners=True)

    u_vox = AMPLITUDE_VOX * smooth(3, 4, generator)
    centres = 6 + 20 * torch.rand(STRUCTURES, 3, generator=subject)
    radii = 3 + 3 * torch.rand(STRUCTURES, generator=subject)
    nodes = index_grid(SHAPE, device=torch.device("cpu"), dtype=torch.float32)
    texture = 0.1 * smooth(1, 9, subject)

    def seen(points: Tensor) -> tuple[Tensor, Tensor]:
        away = [(points - c.view(1, 3, 1, 1, 1)).norm(dim=1, keepdim=True) for c in centres]
        inside = torch.cat(
            [torch.sigmoid(2 * (r - d)) for d, r in zip(away, radii, strict=True)], 1
        )
        weights = torch.linspace(0.3, 1.0, STRUCTURES).view(1, -1, 1, 1, 1)
        image = (weights * inside).amax(1, keepdim=True) + sample_at_index(texture, points)
        strongest, number = inside.max(1, keepdim=True)
        return image, torch.where(strongest > 0.5, number + 1, 0)

    (moving, moving_labels), (fixed, fixed_labels) = seen(nodes), seen(nodes + u_vox)
    noise = 0.02 * torch.randn(2, 1, 1, *SHAPE, generator=generator)
    fixed = 0.8 * fixed + 0.1 + noise[1]
    return KnownPair(moving + noise[0], fixed, moving_labels, fixed_labels, u_vox)


def objective(architecture: str) -> Objective:
    """Local correlation, with the regularity that goes with the architecture."""
    name, weight = ("gradicon", 1.5) if architecture == "gradicon" else ("diffusion", 2.0)
    plan = LossPlan("lncc", {"sigma": 2.0}, name, weight)
    return Objective(build_similarity(plan), build_regularity(plan, SPACING_MM), weight)


def train(architecture: str, precision: str, steps: int, seed: int, device: torch.device) -> float:
    """Train and measure; prints one line of JSON, returns the seconds of the steps."""
    torch.manual_seed(seed)
    network = build_network(NETWORKS[architecture], 1).to(device).train()
    set_precision(network, precision)  # type: ignore[arg-type]
    optimiser = torch.optim.Adam(network.parameters(), lr=RATES[architecture])
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
    loss, points = objective(architecture), torch.Generator().manual_seed(seed)
    seconds = 0.0
    for step in range(steps):
        pair = known_pair(1000 * (seed + 1) + step)
        moving, fixed = pair.moving.to(device), pair.fixed.to(device)
        start = _now(device)
        optimiser.zero_grad(set_to_none=True)
        total = loss.bind(moving, fixed)(network(moving, fixed), points).total
        scaler.scale(total).backward()
        scaler.step(optimiser)
        scaler.update()
        seconds += _now(device) - start
    cuda = device.type == "cuda"
    peak = torch.cuda.max_memory_allocated(device) if cuda else _peak_rss()
    found = evaluate(network, device)
    sys.stdout.write(json.dumps({**found, "seconds": seconds, "peak": peak}) + "\n")
    return seconds


def evaluate(network: RegistrationNetwork, device: torch.device) -> dict[str, float]:
    """Means over the held-out pairs: distance from the truth in voxels, Dice, folded percent."""
    network.eval()
    sums = dict.fromkeys(("error", "error_before", "dice", "dice_before", "folded"), 0.0)
    for number in range(HELD_OUT):
        pair = known_pair(number)
        with torch.no_grad():
            maps = network(pair.moving.to(device), pair.fixed.to(device))
            u_vox = maps.fixed_to_moving.displacement_vox(SHAPE).cpu()
        inside = pair.fixed_labels[:, 0] > 0
        sums["error"] += (u_vox - pair.u_vox).norm(dim=1)[inside].mean().item()
        sums["error_before"] += pair.u_vox.norm(dim=1)[inside].mean().item()
        sums["dice"] += _dice(pair, u_vox)
        sums["dice_before"] += _dice(pair, torch.zeros_like(u_vox))
        sums["folded"] += 100 * folded_volume(u_vox).item() / u_vox[0, 0].numel()
    return {name: value / HELD_OUT for name, value in sums.items()}


def _dice(pair: KnownPair, u_vox: Tensor) -> float:
    points = (index_grid(SHAPE, device=u_vox.device, dtype=u_vox.dtype) + u_vox).round().long()
    d, h, w = (points[0, k].clamp(0, SHAPE[k] - 1) for k in range(3))
    warped, fixed = pair.moving_labels[0, 0][d, h, w], pair.fixed_labels[0, 0]
    found = []
    for k in range(1, STRUCTURES + 1):
        both = (warped == k).sum() + (fixed == k).sum()
        if both > 0:
            found.append((2 * ((warped == k) & (fixed == k)).sum() / both).item())
    return sum(found) / len(found)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def _peak_rss() -> int:
    status = Path("/proc/self/status").read_text("ascii")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--architecture", nargs="+", choices=ARCHITECTURES, default=ARCHITECTURES)
    parser.add_argument("--precision", nargs="+")
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    if arguments.run:
        set_passive_threads()
        steady_heap()
        architecture, precision, seed = arguments.run
        with float32_exactly():
            train(architecture, precision, arguments.steps, int(seed), device)
        return 0
    precisions = arguments.precision or ["float32", "bfloat16"]
    if arguments.precision is None and device.type == "cuda":
        precisions.append("float16")
    print(f"{'network':<11}{'precision':<10}{'seed':>5}{'error, voxels':>20}{'Dice':>17}"
          f"{'folded %':>10}{'seconds':>9}{'peak MiB':>10}")  # fmt: skip
    for architecture in arguments.architecture:
        for seed in range(arguments.seeds):
            for precision in precisions:
                print_line(arguments, architecture, precision, seed)
    return 0


def print_line(arguments: argparse.Namespace, architecture: str, precision: str, seed: int) -> None:
    """Train in a fresh process and print what came out."""
    command = [sys.executable, __file__, "--device", arguments.device, "--steps",
               str(arguments.steps), "--run", architecture, precision, str(seed)]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise SystemExit(f"{architecture}, {precision}: {result.stderr.strip()}")
    found = json.loads(result.stdout.splitlines()[-1])
    print(
        f"{architecture:<11}{precision:<10}{seed:>5}"
        f"{found['error_before']:>10.3f} -> {found['error']:.3f}"
        f"{found['dice_before']:>8.3f} -> {found['dice']:.3f}"
        f"{found['folded']:>10.4f}{found['seconds']:>9.1f}{found['peak'] / 2**20:>10.0f}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
