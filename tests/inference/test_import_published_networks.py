"""Weights of SITReg and TransMorph as their authors save them, through the real commands."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from published_files import (
    SITREG,
    SITREG_SHAPE,
    TRANSMORPH,
    TRANSMORPH_SHAPE,
    save_pair,
    save_sitreg,
    save_transmorph,
    sitreg_state,
    transmorph_state,
)

from autoreg.inference.cli import ORIGINS, main_import_weights, main_predict
from autoreg.network_plan import SITRegPlan, TransMorphPlan
from autoreg.networks.factory import build_network


@dataclass(frozen=True)
class Case:
    """An imported model, and the network in the authors' order of axes."""

    model: Path
    plan: SITRegPlan | TransMorphPlan
    state: dict[str, torch.Tensor]
    shape: tuple[int, int, int]
    scale: float


@pytest.fixture(scope="module", params=["sitreg", *TRANSMORPH])
def case(request, tmp_path_factory):
    folder, kind = tmp_path_factory.mktemp("imported"), request.param
    if kind == "sitreg":
        file = save_sitreg(folder)
        found = Case(folder / "model", SITREG, sitreg_state(), SITREG_SHAPE, 1.0)
    else:
        file = save_transmorph(folder, kind)
        scale = 255.0 if kind == "time_varying" else 1.0
        plan, state = TRANSMORPH[kind], transmorph_state(kind)
        found = Case(folder / "model", plan, state, TRANSMORPH_SHAPE, scale)
    origin = "sitreg" if kind == "sitreg" else "transmorph"
    assert main_import_weights([str(file), "--from", origin, "-o", str(found.model)]) == 0
    return found


@torch.no_grad()
def authors_displacement(plan, state, fixed, moving):
    """Of the network in the authors' order of axes, fed what nibabel reads: (3, X, Y, Z) voxels."""
    network = build_network(plan, 1).eval()
    network.load_state_dict(state)
    images = [torch.from_numpy(array)[None, None] for array in (moving, fixed)]
    return network.one_direction(*images).displacement_vox(fixed.shape)[0].numpy()


def test_prediction_gives_what_the_network_gives_on_the_arrays_of_nibabel(tmp_path, case):
    fixed, moving = save_pair(tmp_path / "in", case.shape, case.scale)
    out = tmp_path / "out"
    flags = ["-m", str(case.model), "-o", str(out), "--io", "none", "--device", "cpu"]
    assert main_predict(["-i", str(tmp_path / "in"), *flags]) == 0
    u_vox = authors_displacement(case.plan, case.state, fixed, moving)
    # The images' axes point to R, A, S, with voxels of 2, 1.5 and 1.2 mm.
    expected = u_vox * np.array([-2.0, -1.5, 1.2])[:, None, None, None]
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "x" / "displacement.nii.gz")))
    assert np.abs(expected).max(axis=(1, 2, 3)).min() > 0.1
    np.testing.assert_allclose(found.transpose(3, 2, 1, 0), expected, atol=2e-3)


def test_the_plan_lays_the_arrays_on_each_other_as_they_are(case):
    plan = json.loads((case.model / "plan.json").read_text())
    assert plan["grid"]["shape"] == list(reversed(case.shape))
    assert plan["grid"]["antialias"] is False
    assert plan["alignment"]["kind"] == "boxes"
    assert plan["intensity"] == {"MR": {"kind": "window", "lower": 0.0, "upper": case.scale}}
    assert plan["network"]["axes"] == "whd"
    assert plan["network"]["compatibility"] == case.plan.compatibility
    assert plan["memory"]["training"] > plan["memory"]["prediction"] > 0
    assert plan["instance_optimisation"]["learning_rate"] > 0


@pytest.mark.parametrize(
    ("origin", "flags", "expected"),
    [
        ("sitreg", ["--modality", "ct"], "--modality: does nothing with --from sitreg"),
        ("transmorph", ["--settings", "x.json"], "--settings: does nothing with --from transmorph"),
        ("unigradicon", ["--window", "0", "1"], "--window: does nothing with --from unigradicon"),
        ("transmorph", ["--window", "1", "0"], "--window 1 0: expected the lower end first"),
    ],
)
def test_options_that_would_do_nothing_are_refused(tmp_path, capsys, origin, flags, expected):
    flags = ["--from", origin, "-o", str(tmp_path / "model"), *flags]
    assert main_import_weights([str(tmp_path / "weights.pt"), *flags]) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("origin", ORIGINS)
def test_every_origin_has_a_reader(tmp_path, capsys, origin):
    arguments = [str(tmp_path / "w.pt"), "--from", origin, "-o", str(tmp_path / "model")]
    assert main_import_weights(arguments) == 2
    assert "w.pt: no such file" in capsys.readouterr().err


@pytest.mark.parametrize("origin", ["sitreg", "transmorph"])
def test_weights_of_something_else_are_diagnosed(tmp_path, capsys, origin):
    torch.save({"state_dict": {"conv.weight": torch.zeros(1)}, "epoch": 1}, tmp_path / "w.pt")
    arguments = [str(tmp_path / "w.pt"), "--from", origin, "-o", str(tmp_path / "model")]
    assert main_import_weights(arguments) == 2
    message = capsys.readouterr().err
    assert "not the weights of TransMorph" in message or "expected a plain state dict" in message
    assert not (tmp_path / "model").exists()
