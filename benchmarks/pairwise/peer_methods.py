"""Run one peer on one case, in the peers' own virtualenv: `peers` starts this as a process.

    VENV/bin/python peer_methods.py PEER CASE OUT --threads 2

Needs numpy, SimpleITK and the peer's package, not autoreg. Writes into OUT: displacement.npy
((D, H, W, 3) float32, xyz LPS mm on the fixed grid), warped.nii.gz (the peer's own warped image)
and registration.json (CPU and wall seconds of the registration call alone).
"""

import argparse
import importlib
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk


@dataclass(frozen=True)
class Task:
    """What a peer gets. `affine`: its own affine registration goes first."""

    fixed: Path
    moving: Path
    work: Path
    threads: int
    affine: bool


Found = tuple[np.ndarray[Any, Any], sitk.Image]


def greedy(iterations: str) -> Callable[[Task], Found]:
    """Greedy, NCC 2x2x2, default sigmas; `-wp 0` keeps the field from being rounded."""

    def register(task: Task) -> Found:
        program = importlib.import_module("picsl_greedy").Greedy3D()
        pair = f"-threads {task.threads} -i {task.fixed} {task.moving} -m NCC 2x2x2 -n {iterations}"
        matrix, field = task.work / "affine.mat", task.work / "warp.nii"
        start, chain = "", f"{field}"
        if task.affine:
            program.execute(f"{pair} -a -dof 12 -ia-image-centers -o {matrix}")
            start, chain = f"-it {matrix}", f"{field} {matrix}"
        program.execute(f"{pair} {start} -wp 0 -o {field}")
        target = task.work / "greedy.nii"
        whole = task.work / "whole.nii"
        program.execute(
            f"-threads {task.threads} -rf {task.fixed} -rm {task.moving} {target} "
            f"-rc {whole} -wp 0 -r {chain}"
        )
        return _itk_field(whole), sitk.ReadImage(str(target))

    return register


def ants(kind: str, **settings: object) -> Callable[[Task], Found]:
    """ANTs: `kind` with its letters for deformable only (so) or affine first (s)."""

    def register(task: Task) -> Found:
        module = importlib.import_module("ants")
        fixed, moving = (module.image_read(str(p)) for p in (task.fixed, task.moving))
        result = module.registration(
            fixed, moving, kind.format("s" if task.affine else "so"), **settings
        )
        parts = result["fwdtransforms"]
        whole = module.apply_transforms(fixed, moving, parts, compose=f"{task.work}/whole_")
        target = task.work / "ants.nii"
        module.image_write(result["warpedmovout"], str(target))
        return _itk_field(Path(whole)), sitk.ReadImage(str(target))

    return register


def elastix(task: Task) -> Found:
    """The default B-spline parameter map; the default affine map before it if asked for."""
    itk = importlib.import_module("itk")
    fixed, moving = (itk.imread(str(p), itk.F) for p in (task.fixed, task.moving))
    maps = itk.ParameterObject.New()
    for name in ["affine"] * task.affine + ["bspline"]:
        maps.AddParameterMap(maps.GetDefaultParameterMap(name))
    warped, found = itk.elastix_registration_method(
        fixed, moving, parameter_object=maps, number_of_threads=task.threads
    )
    field = itk.transformix_deformation_field(moving, found)
    image = sitk.GetImageFromArray(itk.array_from_image(warped))
    image.CopyInformation(sitk.ReadImage(str(task.fixed)))
    return np.asarray(itk.array_from_image(field), np.float32), image


def convexadam(task: Task) -> Found:
    """ConvexAdam with MIND, its defaults, on arrays of one grid (it has no affine)."""
    if task.affine:
        raise SystemExit("ConvexAdam has no affine registration of its own")
    torch = importlib.import_module("torch")
    torch.set_num_threads(task.threads)
    method = importlib.import_module("convexAdam.convex_adam_MIND")
    fixed, moving = (sitk.ReadImage(str(p), sitk.sitkFloat32) for p in (task.fixed, task.moving))
    u_vox = method.convex_adam_pt(
        torch.from_numpy(sitk.GetArrayFromImage(fixed)),
        torch.from_numpy(sitk.GetArrayFromImage(moving)),
        dtype=torch.float32,
        device=torch.device("cpu"),
        verbose=False,
    )
    apply = importlib.import_module("convexAdam.apply_convex").apply_convex
    warped = sitk.GetImageFromArray(np.asarray(apply(u_vox, sitk.GetArrayFromImage(moving))))
    warped.CopyInformation(fixed)
    cosines = np.array(fixed.GetDirection()).reshape(3, 3) * np.array(fixed.GetSpacing())
    # Channels follow the array (d, h, w); ITK's index is the reverse.
    return np.asarray(u_vox[..., ::-1] @ cosines.T, np.float32), warped


PEERS: dict[str, Callable[[Task], Found]] = {
    "greedy": greedy("100x50x10"),
    "greedy_more": greedy("100x100x50"),
    "ants_synquick": ants("antsRegistrationSyNQuick[{}]"),
    "ants_syn_cc": ants("antsRegistrationSyN[{}]"),
    "elastix": elastix,
    "convexadam": convexadam,
}


def main() -> None:
    """Register and write what was found."""
    parser = argparse.ArgumentParser(description="Run one peer on one case.")
    parser.add_argument("peer", choices=sorted(PEERS))
    parser.add_argument("case", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--affine", action="store_true", help="its own affine first")
    arguments = parser.parse_args()
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(arguments.threads)
    fixed, moving = (arguments.case / f"{role}.nii.gz" for role in ("fixed", "moving"))
    with tempfile.TemporaryDirectory() as work:
        task = Task(fixed, moving, Path(work), arguments.threads, arguments.affine)
        cpu, wall = _cpu_seconds(), time.perf_counter()
        field, warped = PEERS[arguments.peer](task)
        used = {"cpu_s": _cpu_seconds() - cpu, "wall_s": time.perf_counter() - wall}
    arguments.out.mkdir(parents=True, exist_ok=True)
    np.save(arguments.out / "displacement.npy", field)
    sitk.WriteImage(warped, str(arguments.out / "warped.nii.gz"))
    (arguments.out / "registration.json").write_text(json.dumps(used))


def _cpu_seconds() -> float:
    """User and system time of this process and its finished children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def _itk_field(path: Path) -> np.ndarray[Any, Any]:
    """A displacement field as ITK and ANTs store it: LPS mm, (D, H, W, 3)."""
    return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), np.float32)


if __name__ == "__main__":
    main()
