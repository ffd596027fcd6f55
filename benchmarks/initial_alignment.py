"""The initial alignment against known affine maps, beside SimpleITK and Greedy.

    python benchmarks/initial_alignment.py IMAGES... --trials 24 --itk --greedy PYTHON

Each trial shrinks one of the images to 2 mm (fixed), and resamples it on an oblique grid under a
random affine map: a rotation of up to 60 degrees about any axis, a shift of up to 80 mm, scales and
shears of some 4 %. In turn the voxels are 2 mm, 2x2x2.5 mm or 1.5x1.5x5 mm; the contrast is kept,
inverted in the foreground, or inverted altogether; every fourth field of view shows 110 to 130 mm
of the object along one axis. Noise of 3 % of the maximum is added. One line for each trial and
method: mean error in mm over the foreground, and CPU seconds of one thread; then the table.

SimpleITK: centres of the boxes, Mattes mutual information (32 bins, a fifth of the voxels),
regular-step gradient descent, rigid then affine at shrinks 4 and 2: one start. Greedy (PYTHON is an
interpreter with picsl_greedy): `-a -dof 12 -ia-image-centers -m NMI -n 100x50x10`; its figure
includes the reading of the files and its start.
"""

import argparse
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from scipy.spatial.transform import Rotation

from autoreg.geometry.foreground import foreground_mask
from autoreg.geometry.grid import FloatArray, Geometry, apply_affine
from autoreg.geometry.resampling import resample_volume
from autoreg.geometry.transforms import Affine
from autoreg.geometry.volume import Volume
from autoreg.io.images import read_image, to_sitk, write_image
from autoreg.registration.align import align
from autoreg.registration.align_levels import shrink
from autoreg.registration.align_settings import AlignmentSettings

SUCCESS_MM = 2.0
SPACINGS_MM = ((2.0, 2.0, 2.0), (2.5, 2.0, 2.0), (5.0, 1.5, 1.5))
CONTRASTS = ("same", "foreground inverted", "all inverted")
Method = Callable[[Volume, Volume], FloatArray]


@dataclass(frozen=True, eq=False)
class Trial:
    """A pair whose affine map is known."""

    fixed: Volume
    moving: Volume
    truth: FloatArray
    name: str


def main(argv: Sequence[str] | None = None) -> None:
    """Run the trials and print the table."""
    parser = argparse.ArgumentParser(description="The initial alignment against known maps.")
    parser.add_argument("images", type=Path, nargs="+", help="image files, any format")
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--largest-rotation", type=float, default=60.0, metavar="DEGREES")
    parser.add_argument("--itk", action="store_true", help="SimpleITK's registration as well")
    parser.add_argument("--greedy", metavar="PYTHON", help="interpreter that has picsl_greedy")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    methods: dict[str, Method] = {"autoreg": ours}
    if arguments.itk:
        methods["SimpleITK"] = simple_itk
    if arguments.greedy:
        methods["Greedy"] = lambda fixed, moving: greedy(arguments.greedy, fixed, moving)
    images = [coarse(path) for path in arguments.images]
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    for seed in range(arguments.trials):
        trial = make_trial(images[seed % len(images)], seed, arguments.largest_rotation)
        for name, method in methods.items():
            results[name].append(measured(trial, name, method))
    table(results)


def coarse(path: Path) -> Volume:
    """An image averaged to 2 mm."""
    image = read_image([path], "intensity")
    small = shrink(image.single, image.geometry, 2.0)
    return Volume.intensity(small.array, small.geometry)


def make_trial(fixed: Volume, seed: int, largest_deg: float) -> Trial:
    """Move, cut, invert and disturb an image."""
    random = np.random.default_rng(seed)
    angle, shift = random.uniform(0, largest_deg), random.uniform(0, 80)
    shift_mm = unit(random) * shift
    linear = Rotation.from_rotvec(unit(random) * np.deg2rad(angle)).as_matrix()
    linear = linear @ (np.eye(3) + 0.04 * random.normal(size=(3, 3)))
    centre = fixed.geometry.centre_mm
    truth = np.eye(4)
    truth[:3, :3], truth[:3, 3] = linear, centre + shift_mm - linear @ centre
    cut = seed % 4 == 3
    grid = oblique_grid(random, centre + shift_mm, SPACINGS_MM[seed % 3], cut)
    array = resample_volume(fixed, Affine(np.linalg.inv(truth)), grid).array
    contrast, top = CONTRASTS[seed // 2 % 3], float(fixed.array.max())
    if contrast == "foreground inverted":
        array = np.where(array > 0.02 * top, 1.05 * top - array, 0)
    elif contrast == "all inverted":
        array = top - array
    array = array + random.normal(size=array.shape) * 0.03 * top
    name = f"{seed:3d} {angle:3.0f} deg {shift:3.0f} mm {contrast}{', cut' if cut else ''}"
    return Trial(fixed, Volume.intensity(array, grid), truth, name)


def unit(random: np.random.Generator) -> FloatArray:
    """A random direction."""
    vector = random.normal(size=3)
    return np.asarray(vector / np.linalg.norm(vector))


def oblique_grid(
    random: np.random.Generator,
    centre: FloatArray,
    spacing_mm: tuple[float, float, float],
    cut: bool,
) -> Geometry:
    """A grid of 230 mm, turned by some 30 degrees, not quite around the object."""
    edges = np.array([random.uniform(110, 130) if cut else 230.0, 230.0, 230.0])
    shape = np.ceil(edges / spacing_mm).astype(int)
    turn = Rotation.from_rotvec(unit(random) * 0.5).as_matrix()
    matrix = np.eye(4)
    matrix[:3, :3] = turn[:, ::-1] * spacing_mm
    off = turn[:, 2] * random.uniform(-30, 30) if cut else random.normal(size=3) * 8
    matrix[:3, 3] = centre + off - matrix[:3, :3] @ ((shape - 1) / 2)
    return Geometry((int(shape[0]), int(shape[1]), int(shape[2])), matrix)


def measured(trial: Trial, name: str, method: Method) -> tuple[float, float]:
    """Mean error in mm and CPU seconds of one method, printed too."""
    start = cpu_seconds()
    found = method(trial.fixed, trial.moving)
    seconds = cpu_seconds() - start
    index = np.argwhere(foreground_mask(trial.fixed.single))[::17]
    points = trial.fixed.geometry.to_world(index)
    apart = apply_affine(found, points) - apply_affine(trial.truth, points)
    error = float(np.linalg.norm(apart, axis=1).mean())
    print(f"{trial.name:45} {name:10} {error:8.2f} mm {seconds:7.2f} s", flush=True)
    return error, seconds


def cpu_seconds() -> float:
    """Of this process and of the ones it started."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def ours(fixed: Volume, moving: Volume) -> FloatArray:
    """Autoreg with its defaults."""
    return align(fixed, moving, AlignmentSettings()).transform.matrix


def simple_itk(fixed: Volume, moving: Volume) -> FloatArray:
    """Mattes mutual information from one start: rigid, then affine."""
    images = [to_sitk(volume) for volume in (fixed, moving)]
    rigid = sitk.CenteredTransformInitializer(
        *images, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    method = itk_method(200)
    method.SetInitialTransform(rigid, inPlace=True)
    method.Execute(*images)
    affine = sitk.AffineTransform(3)
    affine.SetCenter(rigid.GetFixedParameters()[:3])
    affine.SetMatrix(rigid.GetMatrix())
    affine.SetTranslation(rigid.GetTranslation())
    method = itk_method(100)
    method.SetInitialTransform(affine, inPlace=True)
    method.Execute(*images)
    matrix = np.eye(4)
    origin = np.array(affine.TransformPoint((0.0, 0.0, 0.0)))
    columns = [np.array(affine.TransformPoint(tuple(e))) - origin for e in np.eye(3)]
    matrix[:3, :3], matrix[:3, 3] = np.stack(columns, axis=1), origin
    return matrix


def itk_method(steps: int) -> sitk.ImageRegistrationMethod:
    """Settings shared by both stages; the seed and the single thread make it repeatable."""
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.2, 1)
    method.SetNumberOfThreads(1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(2.0, 1e-3, steps)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2])
    method.SetSmoothingSigmasPerLevel([4, 2])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    return method


def greedy(python: str, fixed: Volume, moving: Volume) -> FloatArray:
    """Greedy's affine registration in a process of its own; its matrix is in RAS."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_image(folder / "fixed.nii.gz", fixed)
        write_image(folder / "moving.nii.gz", moving)
        command = (
            f"-d 3 -threads 1 -a -dof 12 -ia-image-centers -m NMI -n 100x50x10 "
            f"-i {folder}/fixed.nii.gz {folder}/moving.nii.gz -o {folder}/affine.mat"
        )
        code = f"from picsl_greedy import Greedy3D; Greedy3D().execute({command!r})"
        subprocess.run([python, "-c", code], check=True, capture_output=True)
        ras = np.loadtxt(folder / "affine.mat")
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    return np.asarray(flip @ ras @ flip)


def table(results: dict[str, list[tuple[float, float]]]) -> None:
    """One line for each method."""
    print(f"\n{'method':10} {'< 2 mm':>8} {'median mm':>10} {'p95 mm':>8}", end="")
    print(f"{'median s':>10} {'max s':>7}")
    for name, pairs in results.items():
        errors, seconds = np.array(pairs).T
        good = int((errors < SUCCESS_MM).sum())
        print(
            f"{name:10} {good:3d}/{len(errors):3d}  {np.median(errors):10.2f} "
            f"{np.quantile(errors, 0.95):8.2f} {np.median(seconds):9.2f} {seconds.max():7.2f}"
        )


if __name__ == "__main__":
    main()
