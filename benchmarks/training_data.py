"""How long a training waits for its data: seconds per pair of loading and augmentation, by place.

    python benchmarks/training_data.py [--shape 175 175 175] [--pairs 12] [--workers 0 1 2 4]
                                       [--step-seconds 0.5 | --real-step] [--device cpu]

Synthetic cases are prepared in a temporary folder and read again from the page cache. First the
CPU seconds of each part for one pair on one thread: loading, augmentation (all gates open, and with
the plan's probabilities), the way of a batch from a worker to the training. Then a loop over
batches of one pair by the training's own `open_batches`, for each number of workers and for both
places of augmentation: in the workers, or by the training itself on the device.

The training step is a STAND-IN: the loop sleeps for --step-seconds in place of forward and
backward pass, as a GPU would keep the loop from asking for data. With --real-step it is a step of
a GradICON cascade of two levels (batch of one, LNCC, Adam) instead. "waiting" is the share of the
loop's time in which it waits for a batch, after the first one; "on the device" is the share that
the augmentation there takes in addition. Wall time: on a machine that has fewer processors than
workers, or other work to do, it says little.
"""

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from autoreg.io.records import save_record
from autoreg.losses.factory import build_regularity, build_similarity
from autoreg.network_plan import Shape
from autoreg.networks.gradicon import GradICON
from autoreg.plan import GridPlan, LossPlan
from autoreg.planning.prepared import (
    PREPARED_FORMAT,
    PreparedRecord,
    array_names,
    as_matrix,
    record_path,
)
from autoreg.registration.objective import Objective
from autoreg.training.augmentation import PairAugmentation
from autoreg.training.batches import Guarded, PairBatch, open_batches
from autoreg.training.draws import Draws
from autoreg.training.loading import Content, PairLoader
from autoreg.training.splits import OrderedPairs
from autoreg.training_plan import AugmentationPlan

PAPER = AugmentationPlan(
    from_epoch=0, affine_probability=0.5, rotation_deg=10.0, translation_mm=5.0, scaling=0.03,
    flip_probability=0.5, flip_axis=0, gamma_probability=0.1, gamma=0.2,
)  # fmt: skip
ALWAYS = replace(PAPER, affine_probability=1.0, flip_probability=1.0, gamma_probability=1.0)
CASES = ("case0", "case1", "case2", "case3")
CONTENTS = {"images": Content(), "images and label maps": Content(labels=True)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=3, default=[175, 175, 175])
    parser.add_argument("--pairs", type=int, default=12, help="pairs of each loop")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--step-seconds", type=float, default=0.5, help="of the stand-in step")
    parser.add_argument("--real-step", action="store_true", help="train instead")
    parser.add_argument("--device", default="cpu", help="of the training")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    depth, height, width = arguments.shape
    grid = GridPlan((depth, height, width), (1.0, 1.0, 1.0), antialias=False)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, case in enumerate(CASES):
            write_case(folder, case, grid.shape, number)
        machine = f"{os.cpu_count()} processors, torch {torch.__version__}"
        print(f"grid {depth} x {height} x {width}, {machine}")
        print_parts(folder, grid, arguments.pairs)
        print_loops(folder, grid, arguments)


def write_case(folder: Path, case: str, shape: Shape, seed: int) -> None:
    """A prepared case of noise, with 35 structures."""
    generator = np.random.default_rng(seed)
    arrays = {
        "image": generator.random((1, *shape), np.float32),
        "labels": generator.integers(36, size=shape, dtype=np.uint8),
    }
    names = array_names(case)
    for role, array in arrays.items():
        np.save(folder / names[role], array)
    matrix = as_matrix(np.eye(4))
    files = {names[role]: (folder / names[role]).stat().st_size for role in arrays}
    record = PreparedRecord(
        PREPARED_FORMAT, case, ("MR",), "", (), files, shape, matrix, shape, matrix, {}
    )
    save_record(record, record_path(folder, case))


def print_parts(folder: Path, grid: GridPlan, pairs: int) -> None:
    """CPU seconds per pair of each part, one after the other in this process."""
    print(f"\nCPU seconds per pair, one thread, mean of {pairs}")
    for title, content in CONTENTS.items():
        loader = PairLoader(folder, draws(pairs), range(1), 1, content=content)
        plain = Guarded(lambda batch: batch)
        items = []
        seconds = cpu_seconds(lambda: items.extend(plain(**next(loader)) for _ in range(pairs)))  # noqa: B023
        print(f"  {title}: loading {seconds / pairs:.3f}", end="")
        for name, plan in (("all gates open", ALWAYS), ("as planned", PAPER)):
            guarded = Guarded(PairAugmentation(grid, plan))
            seconds = cpu_seconds(lambda: [guarded(**item) for item in items])  # noqa: B023
            print(f", augmentation {seconds / pairs:.3f} ({name})", end="")
        print(f", from worker to training {transfer_seconds(items) / pairs:.3f}", flush=True)


def transfer_seconds(items: Sequence[object]) -> float:
    """CPU seconds of both ends of a pipe."""
    reader, writer = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=send, args=(writer, items))
    start = time.process_time()
    process.start()
    writer.close()
    for _ in items:
        reader.recv()
    here = time.process_time() - start
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return here + after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def send(writer: "multiprocessing.connection.Connection", items: Sequence[object]) -> None:
    """The worker's end."""
    for item in items:
        writer.send(item)


def print_loops(folder: Path, grid: GridPlan, arguments: argparse.Namespace) -> None:
    """Waiting share for each number of workers and each place of augmentation."""
    kind = "real steps" if arguments.real_step else f"stand-in step {arguments.step_seconds} s"
    print(f"\nloop of {arguments.pairs} batches of one pair, {kind}")
    augmentation, device = PairAugmentation(grid, PAPER), torch.device(arguments.device)

    def stand_in(batch: PairBatch) -> None:
        time.sleep(arguments.step_seconds)

    step = training_step(grid, device) if arguments.real_step else stand_in
    for workers in arguments.workers:
        for place in ("workers", "device"):
            there = augmentation if place == "workers" else None
            with open_batches(
                folder, draws(arguments.pairs + 1), there, range(1), workers
            ) as batches:
                next(batches)  # workers start, torch is imported, the cache is warm
                waited, augmented, total = loop(
                    batches, None if there else augmentation, device, step
                )
            print(
                f"  {workers} workers, augmentation on {place + ',':8s} "
                f"waiting {100 * waited / total:5.1f} %, "
                f"on the device {100 * augmented / total:5.1f} %, "
                f"{total / arguments.pairs:.2f} s per pair",
                flush=True,
            )


def loop(
    batches: Iterator[PairBatch],
    augment: PairAugmentation | None,
    device: torch.device,
    step: Callable[[PairBatch], None],
) -> tuple[float, float, float]:
    """Seconds of waiting, of augmentation here, and of all."""
    waited = augmented = 0.0
    start = time.perf_counter()
    while True:
        asked = time.perf_counter()
        batch = next(batches, None)
        waited += time.perf_counter() - asked
        if batch is None:
            return waited, augmented, time.perf_counter() - start
        asked = time.perf_counter()
        batch = batch.to(device)
        if augment is not None:
            batch = augment(batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        augmented += time.perf_counter() - asked
        step(batch)


def training_step(grid: GridPlan, device: torch.device) -> Callable[[PairBatch], None]:
    """A step of Adam for a small cascade."""
    network = GradICON((0.5, 1.0), 1, 0.125).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4)
    plan = LossPlan("lncc", {"sigma": 2.0}, "gradicon", 1.5)
    regularity = build_regularity(plan, grid.spacing_mm)
    objective = Objective(build_similarity(plan), regularity, plan.regularity_weight)

    def step(batch: PairBatch) -> None:
        optimiser.zero_grad()
        maps = network(batch.moving, batch.fixed)
        loss = objective.bind(batch.moving, batch.fixed)(maps, torch.Generator())
        torch.autograd.backward(loss.total)
        optimiser.step()

    return step


def draws(pairs: int) -> Draws:
    """Of one epoch of so many pairs."""
    return Draws(OrderedPairs(CASES), pairs, 1, seed=0)


def cpu_seconds(function: Callable[[], object]) -> float:
    """CPU seconds of this process."""
    start = time.process_time()
    function()
    return time.process_time() - start


if __name__ == "__main__":
    main()
