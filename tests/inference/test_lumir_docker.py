"""The template of documentation/lumir_docker, without Docker: its script runs, its shells pack."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from tiny_models import sitk_image

TEMPLATE = Path(__file__).resolve().parents[2] / "documentation" / "lumir_docker"
NUMBERS = (3454, 3455)


@pytest.fixture
def container(tmp_path, model):
    """The root folder as the organisers mount it."""
    images = tmp_path / "input" / "imagesVal"
    images.mkdir(parents=True)
    names = [f"./imagesVal/LUMIRMRI_{number}_0000.nii.gz" for number in NUMBERS]
    for seed, name in enumerate(names):
        image = sitk_image(seed, (14, 17, 12), (1, 1, 1))
        sitk.WriteImage(image, str(tmp_path / "input" / name))
    description = {
        "name": "LUMIR",
        "tensorImageShape": {"0": [14, 17, 12]},
        "validation": [{"fixed": names[1], "moving": names[0]}],
    }
    (tmp_path / "LUMIR_dataset.json").write_text(json.dumps(description))
    shutil.copytree(model, tmp_path / "model")
    return tmp_path


def infer(folder):
    command = [sys.executable, str(TEMPLATE / "infer_script.py")]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_script_writes_what_the_organisers_expect_and_names_what_failed(container):
    path = container / "LUMIR_dataset.json"
    description = json.loads(path.read_text())
    good = description["validation"][0]
    bad = {"fixed": "./imagesVal/LUMIRMRI_9999_0000.nii.gz", "moving": good["moving"]}
    description["validation"] = [bad, good]
    # other lists of the organisers are not this run's
    description["registration_val"] = [good, {"fixed": good["moving"], "moving": good["fixed"]}]
    path.write_text(json.dumps(description))
    run = infer(container)
    assert run.returncode == 1, run.stderr
    assert "failed: ./imagesVal/LUMIRMRI_9999_0000.nii.gz with" in run.stderr
    (path,) = (container / "output").iterdir()
    assert path.name == "disp_3455_3454.nii.gz"
    image = nibabel.load(path)
    assert image.shape == (14, 17, 12, 3)
    assert image.get_data_dtype() == np.float32
    assert np.abs(np.asarray(image.dataobj)).max() > 0.1


def shell(tmp_path, script, *arguments, docker):
    """Run a script with a docker that does something else."""
    tools = tmp_path / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "docker").write_text(f"#!/usr/bin/env bash\nset -e\n{docker}\n")
    (tools / "docker").chmod(0o755)
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", str(script), *map(str, arguments)]
    return subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": path, "SEEN": str(tmp_path / "seen")},
    )  # fmt: skip


def test_the_image_is_built_of_sources_model_and_script(tmp_path, model):
    docker = '[ "$1 $2 $3" = "build --tag mine" ]; cp -r "$4" "$SEEN"'
    run = shell(tmp_path, TEMPLATE / "build.sh", model, "mine", docker=docker)
    assert run.returncode == 0, run.stderr
    copied = re.findall(r"^COPY (\S+)", (tmp_path / "seen" / "Dockerfile").read_text(), re.M)
    assert sorted(copied) == sorted(
        p.name for p in (tmp_path / "seen").iterdir() if p.name != "Dockerfile"
    )
    assert (tmp_path / "seen" / "model" / "plan.json").is_file()
    for part in ("setup.py", "autoreg/__init__.py", "inference/cli.py", "dataset_conversion"):
        assert (tmp_path / "seen" / "source" / part).exists()


def test_what_is_no_model_is_not_built(tmp_path):
    run = shell(tmp_path, TEMPLATE / "build.sh", tmp_path, docker="exit 3")
    assert run.returncode == 2
    assert "expected plan.json" in run.stderr


def test_the_image_is_run_with_the_three_mounts(container):
    arguments = ("LUMIR_dataset.json", "input", "results")
    run = shell(container, TEMPLATE / "test.sh", *arguments, docker='echo "$@" >"$SEEN"')
    assert run.returncode == 0, run.stderr
    seen = (container / "seen").read_text()
    assert "--ipc=host --memory 16g" in seen
    for source, target in (
        ("LUMIR_dataset.json", "/LUMIR_dataset.json,readonly"),
        ("input", "/input,readonly"),
        ("results", "/output"),
    ):
        assert f"type=bind,source={container / source},target={target} " in seen
    assert seen.split()[-1] == "autoreg_lumir"


def test_the_submission_is_packed_once_its_readme_is_filled_in(tmp_path):
    template = tmp_path / "template"
    shutil.copytree(TEMPLATE, template)
    with zipfile.ZipFile(tmp_path / "val.zip", "w") as archive:
        archive.writestr("disp_3455_3454.nii.gz", b"numbers")
    docker = '[ "$1 $2" = "save mine" ]; echo layers'
    arguments = ("anna", tmp_path / "val.zip", "mine")
    run = shell(tmp_path, template / "export.sh", *arguments, docker=docker)
    assert run.returncode == 2
    assert "fill in" in run.stderr
    (template / "README.txt").write_text("CPUs: 8\n")
    run = shell(tmp_path, template / "export.sh", *arguments, docker=docker)
    assert run.returncode == 0, run.stderr
    with zipfile.ZipFile(tmp_path / "LUMIR_anna_TestPhase.zip") as archive:
        assert sorted(archive.namelist()) == [
            "README.txt", "mine.tar.gz", "validation_predictions.zip",
        ]  # fmt: skip
