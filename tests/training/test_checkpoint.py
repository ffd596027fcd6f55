import dataclasses
from pathlib import Path

import pytest
import torch

from autoreg.errors import CheckpointError, UsageError
from autoreg.io.records import save_record
from autoreg.networks.factory import build_network
from autoreg.plan import IntensityPlan
from autoreg.training.checkpoint import (
    Checkpoint,
    EpochSoFar,
    ResumeState,
    load_checkpoint,
    save_checkpoint,
)
from autoreg.training.model_folder import (
    PLAN_FILE,
    checkpoint_path,
    find_checkpoint,
    load_network,
)
from autoreg.training.progress import EpochRecord, ValidationSummary
from autoreg.training.splits import FoldNames
from autoreg.training.step_values import StepValues

SUMMARY = ValidationSummary(0.5, 0.25, 1.0, 0.75, None, 0.0, 0.9, pairs=2)


def make_checkpoint(plan, levels=2, **values):
    torch.manual_seed(1)
    shallow = dataclasses.replace(plan.network, level_factors=plan.network.level_factors[:levels])
    network = build_network(shallow, 1)
    return Checkpoint(plan, "0", levels, 7, network.state_dict(), **values)


def test_a_checkpoint_comes_back_as_it_was(tmp_path, plan):
    optimiser = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))])
    resume = ResumeState(
        optimiser=optimiser.state_dict(),
        scaler={"scale": 65536.0},
        best=0.125,
        initial=SUMMARY,
        records=(EpochRecord(0, 1, False, 0.1, 0.2, 0.3, 1.0, 0.5, SUMMARY),),
        epoch_so_far=EpochSoFar(((2, StepValues(0.1, 0.2, 0.3)),), 1, 2.5, 0.5),
        names=FoldNames(("a", "b"), ("c to d",)),
        is_pretrained=True,
    )
    before = make_checkpoint(plan, resume=resume)
    save_checkpoint(tmp_path / "c.pt", before)
    after = load_checkpoint(tmp_path / "c.pt")
    assert (after.plan, after.fold, after.levels, after.epoch) == (plan, "0", 2, 7)
    assert after.versions == before.versions
    assert after.versions["torch"] == str(torch.__version__)
    assert list(after.network) == list(before.network)
    assert all(torch.equal(after.network[key], before.network[key]) for key in before.network)
    assert after.resume.optimiser == resume.optimiser
    for name in ("scaler", "epoch_so_far", "names", "is_pretrained"):
        assert getattr(after.resume, name) == getattr(resume, name)
    assert (after.resume.best, after.resume.initial) == (0.125, SUMMARY)
    assert after.resume.records == resume.records


def test_opening_a_checkpoint_runs_no_code(tmp_path, plan):
    save_checkpoint(tmp_path / "c.pt", make_checkpoint(plan))
    assert torch.load(tmp_path / "c.pt", weights_only=True)["format"] == 1


class Foreign:
    pass


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"nothing of the kind", "not a file of .*weights written by torch.save"),
        (b"", "not a file of weights written by torch.save"),
        (b"hello", "not a file of .*weights written by torch.save"),
        ({"weights": Foreign()}, "not a file of plain weights"),
        ({"layer.weight": torch.ones(1)}, "not an autoreg checkpoint.*autoreg_import_weights"),
        ({"format": 99}, "checkpoint format 99.*reads format 1"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "c.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "weights_only" not in str(caught.value)


def test_a_truncated_checkpoint_is_refused(tmp_path, plan):
    path = tmp_path / "c.pt"
    save_checkpoint(path, make_checkpoint(plan))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match="not a file of weights written by"):
        load_checkpoint(path)


def test_no_checkpoint_is_left_half_written(tmp_path, plan, monkeypatch):
    path = tmp_path / "c.pt"
    save_checkpoint(path, make_checkpoint(plan))
    before = path.read_bytes()

    def interrupted(content, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, make_checkpoint(plan))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_as_such(tmp_path, plan, monkeypatch):
    def full(content, file):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UsageError, match=r"c.pt: cannot be written: .* MB are free in"):
        save_checkpoint(tmp_path / "c.pt", make_checkpoint(plan))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", [0.2, 0.5, 0.8])
def test_damage_inside_is_noticed(tmp_path, plan, place):
    path = tmp_path / "c.pt"
    save_checkpoint(path, make_checkpoint(plan))
    content = bytearray(path.read_bytes())
    at = int(place * len(content))
    content[at : at + 40] = bytes(255 - value for value in content[at : at + 40])
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"c\.pt"):
        load_checkpoint(path)


def test_why_a_checkpoint_cannot_be_written_is_told(tmp_path, plan, monkeypatch):
    def opened(path, mode="r", *arguments, **options):
        return original(Path("/dev/full") if mode == "wb" else path, mode, *arguments, **options)

    original = Path.open
    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(UsageError, match="the disk is full"):
        save_checkpoint(tmp_path / "c.pt", make_checkpoint(plan))


def test_a_training_of_another_version_is_not_continued(tmp_path, plan):
    path = tmp_path / "c.pt"
    save_checkpoint(path, make_checkpoint(plan))
    content = torch.load(path, weights_only=True)
    content["resume"] = {"optimiser": {}, "best": None}
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="finish it with that version, or start anew"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "what"), [("drop", "missing"), ("add", "unknown"), ("reshape", "another shape")]
)
def test_weights_are_loaded_strictly(tmp_path, plan, change, what):
    checkpoint = make_checkpoint(plan)
    weights = dict(checkpoint.network)
    key = next(iter(weights))
    if change == "drop":
        del weights[key]
    elif change == "add":
        weights["further.weight"] = torch.ones(1)
    else:
        weights[key] = weights[key][:1]
    path = checkpoint_path(tmp_path, "0", "final")
    save_checkpoint(path, dataclasses.replace(checkpoint, network=weights))
    with pytest.raises(
        CheckpointError, match=f"do not fit the network of their plan: 1 of .*{what}"
    ):
        load_network(tmp_path)


def test_a_network_is_loaded_ready_to_predict(tmp_path, plan):
    checkpoint = make_checkpoint(plan)
    save_checkpoint(checkpoint_path(tmp_path, "0", "final"), checkpoint)
    network, loaded_plan, description = load_network(tmp_path)
    assert loaded_plan == plan
    assert not network.training
    assert "fold_0/checkpoint_final.pt (7 epochs)" in description
    for key, value in network.state_dict().items():
        assert torch.equal(value, checkpoint.network[key])


def test_a_network_of_the_first_stage_is_loaded_without_its_last_level(tmp_path, plan):
    save_checkpoint(checkpoint_path(tmp_path, "0", "latest"), make_checkpoint(plan, levels=1))
    network, _, description = load_network(tmp_path)
    image = torch.rand(1, 1, 16, 16, 16)
    assert len(network(image, image).fixed_to_moving.fields) == 1
    assert "without the last level" in description


def test_final_is_preferred_to_best_and_best_to_latest(tmp_path, plan):
    for which in ("latest", "best", "final"):
        save_checkpoint(checkpoint_path(tmp_path, "0", which), make_checkpoint(plan))
        assert find_checkpoint(tmp_path).name == f"checkpoint_{which}.pt"
    assert find_checkpoint(tmp_path, 0, "best").name == "checkpoint_best.pt"


def test_which_fold_must_be_clear(tmp_path, plan):
    with pytest.raises(CheckpointError, match=r"no fold with a checkpoint.*autoreg_train"):
        find_checkpoint(tmp_path)
    for fold in ("0", "all"):
        save_checkpoint(checkpoint_path(tmp_path, fold, "best"), make_checkpoint(plan))
    with pytest.raises(CheckpointError, match="choose one of the trained folds 0, all"):
        find_checkpoint(tmp_path)
    assert find_checkpoint(tmp_path, "all").parent.name == "fold_all"
    with pytest.raises(CheckpointError, match="fold 3 has no checkpoint; these have: 0, all"):
        find_checkpoint(tmp_path, 3)
    with pytest.raises(CheckpointError, match=r"no fold with a checkpoint_final\.pt"):
        find_checkpoint(tmp_path, 0, "final")


def test_the_plan_beside_the_model_may_change_what_weights_do_not_depend_on(tmp_path, plan):
    save_checkpoint(checkpoint_path(tmp_path, "0", "final"), make_checkpoint(plan))
    optimisation = dataclasses.replace(plan.instance_optimisation, steps=99)
    save_record(dataclasses.replace(plan, instance_optimisation=optimisation), tmp_path / PLAN_FILE)
    assert load_network(tmp_path).plan.instance_optimisation.steps == 99
    intensity = {"MR": IntensityPlan("window", -100, 300)}
    save_record(dataclasses.replace(plan, intensity=intensity), tmp_path / PLAN_FILE)
    with pytest.raises(CheckpointError, match=r'intensity.MR.kind was "quantiles" and is now'):
        load_network(tmp_path)
