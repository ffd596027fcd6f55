"""The examples of documentation/prediction.md run as they stand."""

import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from tiny_models import save_model, sitk_image, tiny_plan

from autoreg.inference.cli import main_predict

PAGE = Path(__file__).resolve().parents[2] / "documentation" / "prediction.md"


def test_the_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "autoreg_data" / "results" / "Dataset001_Brains" / "default", tiny_plan())
    fixed = sitk_image(1, (14, 17, 12), (1.5, 1.2, 2.0), "RAS")
    moving = sitk_image(2, (16, 13, 15), (1.3, 1.6, 1.4))
    sitk.WriteImage(fixed, "fixed.nii.gz")
    sitk.WriteImage(moving, "moving.nii.gz")
    sitk.WriteImage(sitk.Cast(moving > 300, sitk.sitkUInt8), "moving_labels.nii.gz")
    Path("pairs.csv").write_text("case,fixed,moving\npatient1,fixed.nii.gz,moving.nii.gz\n")
    assert main_predict(["-i", ".", "-o", "registered", "--device", "cpu"]) == 0
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S):
        exec(block, names)
        if "warped" in names and "predictor" not in names:
            ours = sitk.GetArrayFromImage(sitk.ReadImage("registered/patient1/warped.nii.gz"))
            np.testing.assert_allclose(sitk.GetArrayFromImage(names["warped"]), ours, atol=0.02)
    assert names["io"].steps == 10
    assert names["labels"].array.max() == 1
