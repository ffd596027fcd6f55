"""The example of documentation/evaluation.md runs as it stands."""

import re
from pathlib import Path

import numpy as np

PAGE = Path(__file__).resolve().parents[2] / "documentation" / "evaluation.md"


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    labels = np.zeros((12, 14, 16), dtype=np.int32)
    labels[3:9, 3:9, 3:9] = 1
    labels[4:7, 4:7, 9:13] = 2
    np.save("fixed_labels.npy", labels)
    np.save("moving_labels.npy", labels[:, :-1])
    np.save("warped_labels.npy", np.roll(labels, 2, axis=0))
    np.save("u_vox.npy", np.zeros((3, *labels.shape), dtype=np.float32))
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    names = {}
    exec(block, names)
    np.testing.assert_allclose(names["scores"], [4 / 6, 1 / 3, np.nan])
    np.testing.assert_allclose(names["distances_mm"], [3, 3, np.nan])  # 2 voxels of 1.5 mm
    assert names["folds"].fraction == 0
    assert capsys.readouterr().out == "0.0 0.0\n"
