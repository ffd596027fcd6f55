import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from golden_inputs import keyed_state_dict
from scipy.ndimage import map_coordinates
from tiny_models import ORIENTATIONS, sitk_image

from autoreg.inference.cli import main_import_weights, main_predict
from autoreg.inference.predictor import Predictor
from autoreg.network_plan import GradICONPlan
from autoreg.networks.factory import build_network
from autoreg.training.model_folder import load_network

FULL, SHALLOW = (0.25, 0.5, 1.0, 1.0), (0.25, 0.5, 1.0)
WIDTH = 0.0625
GRID = (16, 20, 18)


def weights(factors=FULL):
    with torch.device("meta"):
        template = build_network(GradICONPlan(factors, WIDTH), 1).state_dict()
    return keyed_state_dict(template)


def run(file, model, *flags):
    flags = [*flags, "--grid", *map(str, GRID)]
    return main_import_weights([str(file), "--from", "unigradicon", "-o", str(model), *flags])


def save(path, state):
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported")
    assert run(save(folder / "Step_2_final.trch", weights()), folder / "model") == 0
    return folder / "model"


def test_the_model_folder_predicts_with_the_very_weights(imported):
    network, plan, _ = load_network(imported)
    expected = weights()
    assert list(network.state_dict()) == list(expected)
    for key, value in network.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=0)
    assert plan.network.level_factors == FULL


def test_the_plan_reproduces_the_published_preprocessing_and_geometry(imported):
    plan = json.loads((imported / "plan.json").read_text())
    assert plan["grid"]["shape"] == list(GRID)
    assert plan["grid"]["antialias"] is False
    assert plan["alignment"]["kind"] == "boxes"
    assert plan["intensity"] == {
        "MR": {"kind": "quantiles", "lower": 0.0, "upper": 0.99},
        "CT": {"kind": "window", "lower": -1000.0, "upper": 1000.0},
    }
    assert plan["fixed_modalities"] == ["MR"]
    assert plan["loss"]["similarity_parameters"] == {"sigma": 5.0}
    assert plan["loss"]["regularity_weight"] == 1.5
    assert plan["instance_optimisation"]["steps"] == 50


def test_ct_is_a_choice(tmp_path):
    assert run(save(tmp_path / "w.trch", weights()), tmp_path / "model", "--modality", "ct") == 0
    plan = json.loads((tmp_path / "model" / "plan.json").read_text())
    assert plan["moving_modalities"] == ["CT"]


@pytest.mark.parametrize("factors", [FULL, SHALLOW])
@pytest.mark.parametrize("prefix", ["", "regis_net.", "module.regis_net."])
def test_wrappers_identity_maps_and_the_missing_last_step_are_understood(
    tmp_path, factors, prefix, capsys
):
    state = {prefix + key: value for key, value in weights(factors).items()}
    state[f"{prefix}netPhi.identity_map"] = torch.zeros(1, 3, *GRID)
    state[f"{prefix}identity_map"] = torch.zeros(1, 3, *GRID)
    assert run(save(tmp_path / "w.trch", state), tmp_path / "model") == 0
    assert ("with the last step" in capsys.readouterr().out) == (factors == FULL)
    assert load_network(tmp_path / "model").plan.network.level_factors == factors


def published_frame(image, nodes):
    """M and c of specs: phys(i) = M (i - (n - 1) / 2) + c, all in (x, y, z)."""
    size, spacing = np.array(image.GetSize()), np.array(image.GetSpacing())
    rotation = np.reshape(image.GetDirection(), (3, 3))
    centre = np.array(image.GetOrigin()) + rotation @ (spacing * (size - 1) / 2)
    return rotation @ np.diag(spacing * size / nodes), centre


def published_composite(points, u_vox, fixed, moving):
    """The published transform, written down from the definition of its ITK wrapper."""
    nodes = np.array(GRID[::-1])
    matrix, centre = published_frame(fixed, nodes)
    index = np.linalg.solve(matrix, (points - centre).T).T + (nodes - 1) / 2
    moved = [map_coordinates(u, index.T[::-1], order=1, mode="nearest") for u in u_vox[::-1]]
    matrix, centre = published_frame(moving, nodes)
    return (index + np.stack(moved, 1) - (nodes - 1) / 2) @ matrix.T + centre


@pytest.mark.parametrize(("fixed", "moving"), [("oblique", "PIR"), ("RAS", "oblique")])
def test_prediction_without_io_gives_the_published_composite(tmp_path, imported, fixed, moving):
    images = (
        sitk_image(1, (15, 18, 12), (1.6, 1.3, 2.4), fixed),
        sitk_image(2, (17, 14, 16), (1.4, 2.1, 1.2), moving),
    )
    for role, image in zip(("fixed", "moving"), images, strict=True):
        sitk.WriteImage(image, str(tmp_path / f"x_{role}.nii.gz"))
    flags = ["-m", str(imported), "--io", "none", "--device", "cpu"]
    assert main_predict(["-i", str(tmp_path), "-o", str(tmp_path / "out"), *flags]) == 0
    read = [sitk.ReadImage(str(tmp_path / f"x_{role}.nii.gz")) for role in ("fixed", "moving")]
    u_vox = published_field(imported, *images)
    size, spacing = np.array(read[0].GetSize()), np.array(read[0].GetSpacing())
    index = np.stack(np.meshgrid(*map(np.arange, size[::-1]), indexing="ij"), -1)[..., ::-1]
    direction = ORIENTATIONS[fixed]
    nodes = (index * spacing) @ direction.T + np.array(images[0].GetOrigin())
    displacement = sitk.ReadImage(str(tmp_path / "out" / "x" / "displacement.nii.gz"))
    found = nodes + sitk.GetArrayFromImage(displacement)
    expected = published_composite(nodes.reshape(-1, 3), u_vox, *images).reshape(found.shape)
    assert np.abs(expected - nodes).mean() > 1
    np.testing.assert_allclose(found, expected, atol=1e-3)


def published_field(model, fixed, moving):
    """The network's field after the published preprocessing, done here with ITK-free numpy."""
    network = load_network(model).network

    def prepared(image):
        array = sitk.GetArrayFromImage(image).astype(np.float64)
        low, high = array.min(), np.sort(array.ravel())[int(0.99 * array.size) - 1]
        scaled = ((np.clip(array, low, high) - low) / (high - low)).astype(np.float32)
        return torch.nn.functional.interpolate(
            torch.from_numpy(scaled)[None, None], GRID, mode="trilinear", align_corners=False
        )

    axes = [np.linspace(0, 1, n) for n in GRID]
    nodes = torch.from_numpy(np.stack(np.meshgrid(*axes, indexing="ij"))[None]).float()
    with torch.no_grad():
        maps = network(prepared(moving), prepared(fixed)).fixed_to_moving(nodes)
    return (maps - nodes)[0].numpy() * (np.array(GRID) - 1)[:, None, None, None]


def test_predictions_may_name_the_other_modality(imported):
    image = sitk_image(1, (12, 12, 12), (2.0, 2.0, 2.0))
    predictor = Predictor.from_model(imported, device="cpu")
    as_ct = predictor.predict_pair(
        image, image, fixed_modalities=["CT"], moving_modalities=["CT"], io=no_io(predictor)
    )
    assert as_ct.outside == (-1000,)


def no_io(predictor):
    return predictor.plan.instance_optimisation.__class__(
        **{**vars(predictor.plan.instance_optimisation), "mode": "none"}
    )


def without(key_part):
    return {key: value for key, value in weights().items() if key_part not in key}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (lambda: without("batchNorms.2.weight"), "4 missing: netPhi.netPhi.net.netPhi"),
        (lambda: {**weights(), "extra": torch.zeros(1)}, "1 unexpected: extra"),
        (
            lambda: {**weights(), "netPsi.net.lastConv.bias": torch.zeros(4)},
            "1 of another shape: netPsi.net.lastConv.bias (4,), expected (3,)",
        ),
        (
            lambda: {**weights(), "netPsi.net.lastConv.bias": torch.full((3,), torch.nan)},
            "1 not finite: netPsi.net.lastConv.bias",
        ),
        (lambda: {"conv.weight": torch.zeros(1)}, "not the weights of a GradICON cascade"),
        (lambda: {"epoch": 3, "model": weights()}, "expected a plain state dict"),
        (lambda: {0: torch.zeros(1)}, "expected a plain state dict"),
        (lambda: [torch.zeros(1)], "found an object of type list"),
    ],
)
def test_what_does_not_fit_is_diagnosed(tmp_path, capsys, content, expected):
    assert run(save(tmp_path / "w.trch", content()), tmp_path / "model") == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    "text", ["", "<html>not found</html>", "hello", "h" * 9, "\x80\x02}q\x01."]
)
def test_what_is_no_file_of_weights_is_refused_and_nothing_in_it_recommended(
    tmp_path, capsys, text
):
    (tmp_path / "page.html").write_bytes(text.encode("latin-1"))
    assert run(tmp_path / "page.html", tmp_path / "model") == 2
    message = capsys.readouterr().err
    assert "page.html: " in message
    assert "weights_only" not in message
    assert "if the file was copied or downloaded" in message  # or was trained by the user


def test_a_grid_that_holds_no_anatomy_is_refused(tmp_path, capsys):
    file = save(tmp_path / "w.trch", weights())
    flags = ["--from", "unigradicon", "-o", str(tmp_path / "m"), "--grid", "0", "20", "18"]
    assert main_import_weights([str(file), *flags]) == 2
    assert "--grid 0 20 18: expected at least 8 nodes" in capsys.readouterr().err


def test_other_files_are_refused_in_one_message(tmp_path, imported, capsys):
    assert run(tmp_path / "absent.trch", tmp_path / "model") == 2
    assert "no such file" in capsys.readouterr().err
    assert run(imported / "fold_all" / "checkpoint_final.pt", tmp_path / "model") == 2
    assert "checkpoint of autoreg already" in capsys.readouterr().err
    file = save(tmp_path / "w.trch", weights())
    assert run(file, imported) == 2
    assert "holds a model already" in capsys.readouterr().err
