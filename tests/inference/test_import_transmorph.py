"""What a state dict of TransMorph tells of its network."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from published_files import TRANSMORPH, random_state, save_transmorph, transmorph_state

from autoreg.inference import published_plan
from autoreg.inference.cli import main_import_weights
from autoreg.plan import MemoryPlan
from autoreg.training.model_folder import load_network


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The memory estimate, which has tests of its own, takes most of an import's time."""
    monkeypatch.setattr(published_plan, "estimate_memory", lambda *_, **__: MemoryPlan(0, 0, 0, 0))


def run(file, model, *flags):
    return main_import_weights([str(file), "--from", "transmorph", "-o", str(model), *flags])


@pytest.mark.parametrize("variant", TRANSMORPH)
def test_names_and_shapes_tell_the_network(tmp_path, variant):
    assert run(save_transmorph(tmp_path, variant), tmp_path / "model") == 0
    model = load_network(tmp_path / "model")
    assert model.plan.network == replace(TRANSMORPH[variant], axes="whd")
    state, expected = model.network.state_dict(), transmorph_state(variant)
    assert set(state) == set(expected)
    assert all(torch.equal(state[key], expected[key]) for key in expected)


def saved(path, state):
    torch.save({"module." + key: value for key, value in state.items()}, path)
    return path


@pytest.mark.parametrize("window", [(2, 3, 2), (3, 2, 2)])
def test_the_index_tells_the_window_whatever_the_image_size(tmp_path, window):
    state = random_state(replace(TRANSMORPH["full"], window=window), "reg_head")
    file = saved(tmp_path / "w.pth", state)
    assert run(file, tmp_path / "model", "--grid", "40", "36", "33") == 0
    plan = load_network(tmp_path / "model").plan
    assert plan.network.window == window
    assert plan.grid.shape == (40, 36, 33)


def test_without_a_sampling_grid_the_image_size_is_asked_for(tmp_path, capsys):
    state = random_state(replace(TRANSMORPH["full"], window=(2, 3, 2)), "reg_head")
    assert run(saved(tmp_path / "w.pth", state), tmp_path / "model") == 2
    assert "give it with --grid" in capsys.readouterr().err


def test_a_network_trained_without_relative_positions_is_imported_without_them(tmp_path):
    state = {k: v for k, v in transmorph_state("full").items() if "position_index" not in k}
    tables = [key for key in state if "bias_table" in key]
    assert all(state[key].abs().max() > 0 for key in tables)
    assert run(save_transmorph(tmp_path, "full", state), tmp_path / "model") == 0
    model = load_network(tmp_path / "model")
    assert model.plan.network.window == TRANSMORPH["full"].window
    assert len(tables) == 5
    assert all(model.network.state_dict()[key].abs().max() == 0 for key in tables)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"transformer.absolute_pos_embed": torch.zeros(1, 8, 2, 2, 2)},
         "1 unexpected: transformer.absolute_pos_embed"),
        ({"reg_head.0.bias": torch.full((3,), torch.inf)}, "1 not finite: reg_head.0.bias"),
        ({"transformer.norm1.weight": None}, "1 missing: transformer.norm1.weight"),
        ({"transformer.layers.1.blocks.0.attn.qkv.weight": None}, "has 4 stages, found depths"),
        ({"transformer.layers.0.blocks.0.attn.relative_position_index": torch.zeros(2, 2).long()},
         "the window of the attention is not known"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_diagnosed(tmp_path, capsys, change, expected):
    state = transmorph_state("full") | change
    state = {key: value for key, value in state.items() if value is not None}
    assert run(save_transmorph(tmp_path, "full", state), tmp_path / "model") == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_nothing_but_plain_values_is_unpacked_beside_the_weights(tmp_path, capsys):
    content = {"state_dict": transmorph_state("full"), "optimizer": Fraction(1, 3)}
    torch.save(content, tmp_path / "w.pth.tar")
    assert run(tmp_path / "w.pth.tar", tmp_path / "model") == 2
    assert "nothing in it was executed" in capsys.readouterr().err
