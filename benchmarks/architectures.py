"""Compare the architectures on the same images, each trained for the same time.

    python benchmarks/architectures.py IMAGES OUTPUT [--minutes 18] [--io-steps 15] [--refine off]

IMAGES holds skull-stripped, affinely aligned scans of one modality (`<name>.nii.gz`, with labels in
`<name>_labels.nii.gz` where there are any). The raw data set, plans, models and predictions go to
OUTPUT. Training sees the images as they are. Tested are ordered pairs of them, and each image
against itself under an unseen known diffeomorphism, with another contrast, a bias field and noise:
there the truth is known at 400 points and, with labels, at every structure.

Every architecture is planned with `--architecture`, and trained for the same CPU seconds: one step
of it is timed first, and the pairs per epoch follow. Printed are the means over the pairs without
instance optimisation, with the plain sum of the gradients, and with gradient projection; with
`--refine off balanced` each of these without and with a displacement field optimised after it.
"""

import argparse
import csv
import itertools
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from autoreg.geometry.resampling import resample_volume
from autoreg.geometry.transforms import DisplacementField
from autoreg.geometry.volume import Volume
from autoreg.inference.choices import REFINEMENTS
from autoreg.inference.demo_data import random_diffeomorphism
from autoreg.io.images import read_image, write_image
from autoreg.io.landmarks import write_landmarks
from autoreg.io.records import save_record
from autoreg.network_plan import ARCHITECTURES

DATASET = "Dataset001_Compared"
MODES = ("none", "vanilla", "gradient_projection")
EPOCHS = 40
LARGEST_MM = (12.0, 16.0)
POINTS = 400
SIDES = ("fixed", "moving")
COLUMNS = (
    "initial_dice", "dice", "initial_tre_mean_mm", "tre_mean_mm", "tre_p95_mm", "initial_lncc",
    "ndv_fraction", "sdlogj_foreground", "inverse_error_mean_mm", "prediction_seconds",
)  # fmt: skip


def main() -> int:
    """Make the data, train, predict, score, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--minutes", type=float, default=18, help="of training, CPU time")
    parser.add_argument("--io-steps", type=int, default=15)
    parser.add_argument("--architectures", nargs="+", choices=ARCHITECTURES, default=ARCHITECTURES)
    parser.add_argument("--refine", nargs="+", choices=REFINEMENTS, default=["off"])
    args = parser.parse_args()
    if not (args.output / "pairs.csv").exists():
        make_data(args.images, args.output)
    trained = {a: train(args.output, a, 60 * args.minutes) for a in args.architectures}
    results = {}
    for architecture, (pairs, seconds) in trained.items():
        for mode, refine in itertools.product(MODES, args.refine):
            folder = predict(args.output, architecture, (mode, refine), args.io_steps)
            name = f"{architecture}, {mode}, refine {refine} ({pairs} pairs in {seconds:.0f} s)"
            results[name] = scores(folder)
            show({name: results[name]})
    show(results)
    return 0


def make_data(images: Path, output: Path) -> None:
    """The raw data set of the images, the deformed copies, and pairs.csv."""
    names = [p.name.removesuffix(".nii.gz") for p in sorted(images.glob("*.nii.gz"))]
    names = [name for name in names if not name.endswith("_labels")]
    folder = output / "raw" / DATASET / "imagesTr"
    (output / "test").mkdir(parents=True)
    folder.mkdir(parents=True)
    rows: list[dict[str, Path | str]] = []
    for number, name in enumerate(names):
        image = images.resolve() / f"{name}.nii.gz"
        (folder / f"{name}_0000.nii.gz").symlink_to(image)
        after = names[(number + 1) % len(names)]
        other = images.resolve() / f"{after}.nii.gz"
        rows.append({"case": f"{name}_{after}", "fixed": image, "moving": other})
        for seed, largest_mm in enumerate(LARGEST_MM):
            rows.append(
                deformed_pair(images.resolve(), output, name, 10 * number + seed, largest_mm)
            )
    save_record(
        {"name": "Compared", "modality": {"0": "MR"}, "pairing": "inter_subject"},
        folder.parent / "dataset.json",
    )
    columns = (
        "case",
        *(f"{side}{what}" for what in ("", "_labels", "_landmarks") for side in SIDES),
    )
    with (output / "pairs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def deformed_pair(
    images: Path, output: Path, name: str, seed: int, largest_mm: float
) -> dict[str, Path | str]:
    """An image and its deformed copy, which is the moving one for even seeds."""
    image = read_image([images / f"{name}.nii.gz"], "intensity")
    transform = random_diffeomorphism(image.geometry, np.random.default_rng(seed), largest_mm)
    stem = output.resolve() / "test" / f"{name}_{seed}"
    warped = resample_volume(image, transform, image.geometry)
    write_image(Path(f"{stem}.nii.gz"), with_another_contrast(warped, seed))
    files = {"": (images / f"{name}.nii.gz", Path(f"{stem}.nii.gz"))}
    points, mapped = known_points(image, transform, seed)
    for end, values in (("original", points), ("deformed", mapped)):
        write_landmarks(Path(f"{stem}_{end}.csv"), values)
    files["_landmarks"] = (Path(f"{stem}_original.csv"), Path(f"{stem}_deformed.csv"))
    labels = images / f"{name}_labels.nii.gz"
    if labels.exists():
        structures = read_image([labels], "label")
        target = Path(f"{stem}_labels.nii.gz")
        write_image(target, resample_volume(structures, transform, structures.geometry))
        files["_labels"] = (labels, target)
    sides = SIDES if seed % 2 == 0 else SIDES[::-1]
    row: dict[str, Path | str] = {"case": f"{name}_known_{seed}"}
    for what, two in files.items():
        row |= {f"{side}{what}": file for side, file in zip(sides, two, strict=True)}
    return row


def with_another_contrast(volume: Volume, seed: int) -> Volume:
    """Gamma 0.8, a smooth bias of 15 %, and noise of 0.02 inside the head."""
    random = np.random.default_rng(seed + 100)
    values = np.clip(volume.array.astype(np.float64), 0, None)
    smooth = gaussian_filter(random.standard_normal(values.shape[1:]), 30)
    values = values**0.8 * np.exp(0.15 * smooth / smooth.std())
    noisy = values + 0.02 * values.max() * random.standard_normal(values.shape)
    return replace(volume, array=(noisy.clip(0) * (values > 0)).astype(np.float32))


def known_points(
    image: Volume, transform: DisplacementField, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Points inside the head, and where the deformed copy shows them; mm."""
    random = np.random.default_rng(seed + 200)
    inside = np.argwhere(image.array[0] > 0.05 * image.array.max())
    points = image.geometry.to_world(inside[random.choice(len(inside), POINTS, replace=False)])
    return points, transform.inverse().map_points(points)


def train(output: Path, architecture: str, budget_seconds: float) -> tuple[int, float]:
    """Plan and train; the number of pairs trained on and the CPU seconds it took."""
    run("plan_and_preprocess", "-d", "1", "--raw", output / "raw", "--preprocessed",
        output / "pre", "--budget", "cpu", "--architecture", architecture)  # fmt: skip
    common = ("1", "--config", architecture, "--preprocessed", output / "pre", "--fold", "all",
              "--workers", "0", "--no-refinement-check")  # fmt: skip
    quick = ("--epochs", "2", "--results", output / "timing", "--overwrite", "--pairs-per-epoch")
    few, more = (run("train", *common, *quick, str(count)) for count in (1, 5))
    pair_seconds, start = (more - few) / 8, few
    per_epoch = max(1, round((budget_seconds - start) / (EPOCHS * pair_seconds)))
    seconds = run("train", *common, "--epochs", str(EPOCHS), "--pairs-per-epoch", str(per_epoch),
                  "--results", output / "results", "--overwrite")  # fmt: skip
    print(f"{architecture}: {EPOCHS * per_epoch} pairs in {seconds:.0f} s", flush=True)
    return EPOCHS * per_epoch, seconds


def predict(output: Path, architecture: str, how: tuple[str, str], steps: int) -> Path:
    """Register and score all pairs; the folder with the results."""
    mode, refine = how
    target = output / f"{architecture}_{mode}_{refine}"
    model = output / "results" / DATASET / architecture
    limit = () if mode == "none" else ("--io-steps", str(steps))
    common = ("-i", output, "-o", target, "-m", model, "--device", "cpu")
    run("predict", *common, "--io", mode, *limit, "--refine", refine)
    run("evaluate", "-i", target, "--no-figures", "--workers", "1")
    return target


def run(command: str, *arguments: str | Path) -> float:
    """Run a command of autoreg; the CPU seconds that it took."""
    program = Path(sys.executable).parent / f"autoreg_{command}"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([program, *map(str, arguments)], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def scores(folder: Path) -> dict[str, float]:
    """Means over the pairs for which a column has a value; lncc of the known and the other ones."""
    with (folder / "evaluation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    means = {}
    for column in COLUMNS:
        values = [float(row[column]) for row in rows if row[column]]
        means[column] = float(np.mean(values)) if values else float("nan")
    for kind, known in (("known", True), ("others", False)):
        values = [float(r["lncc"]) for r in rows if ("_known_" in r["case"]) == known]
        means[f"lncc, {kind}"] = float(np.mean(values))
    return means


def show(results: dict[str, dict[str, float]]) -> None:
    """A table in Markdown."""
    columns = list(next(iter(results.values())))
    print("| |", " | ".join(columns), "|")
    print("|---" * (len(columns) + 1) + "|")
    for name, row in results.items():
        print(f"| {name} |", " | ".join(f"{row[c]:.4g}" for c in columns), "|")


if __name__ == "__main__":
    sys.exit(main())
