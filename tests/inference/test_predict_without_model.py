"""autoreg_predict where no model is trained."""

import logging

import pytest
import SimpleITK as sitk
from pair_phantom import pair

from autoreg.inference.cli import main_predict
from autoreg.io.result import read_result


@pytest.fixture
def pairs(tmp_path):
    """A good pair and a bad one."""
    folder = tmp_path / "in"
    folder.mkdir()
    fixed, moving = pair(2, moving_orientation="LPS")
    for case, other in (("good", moving), ("bad", moving * 0)):
        sitk.WriteImage(fixed, str(folder / f"{case}_fixed.nii.gz"))
        sitk.WriteImage(other, str(folder / f"{case}_moving.nii.gz"))
    return folder


def test_pairs_are_registered_by_field_optimisation(pairs, tmp_path, capsys, caplog):
    caplog.set_level(logging.INFO)
    out = tmp_path / "out"
    flags = ["-i", str(pairs), "-o", str(out), "--results", str(tmp_path / "none")]
    assert main_predict([*flags, "--device", "cpu"]) == 2
    captured = capsys.readouterr()
    assert "no trained model; every pair is registered by optimising a displ" in captured.err
    assert "1 predicted; 1 failed: bad" in captured.out
    result = read_result(out / "good")
    assert result.model is None
    assert result.field_optimisation.preset == "balanced"
    assert "constant" in (out / "bad/unfinished.txt").read_text()
    assert main_predict([*flags, "--device", "cpu", "--continue"]) == 2
    assert "1 complete already" in capsys.readouterr().out
