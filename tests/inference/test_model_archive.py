"""Sharing a model: what an archive holds, what it must not tell, and that it predicts the same."""

import dataclasses
import json
import os
import shutil
import zipfile
from contextlib import ExitStack

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from tiny_models import save_model, tiny_plan

from autoreg.inference import model_archive_install
from autoreg.inference.cli import main_predict
from autoreg.inference.cli_model_archive import main_export, main_install
from autoreg.inference.model_archive_export import LEFT_OUT, without_paths
from autoreg.inference.published_plan import SITREG_REASONS, TRANSMORPH_REASONS
from autoreg.io.atomic import locked_folder
from autoreg.io.records import load_record, save_record
from autoreg.plan import Plan
from autoreg.planning.budget import get_budget
from autoreg.planning.rules_grid import grid_spacing
from autoreg.planning.rules_network import choose_architecture
from autoreg.planning.rules_view import FieldOfView
from autoreg.training.checkpoint import (
    Checkpoint,
    EpochSoFar,
    ResumeState,
    load_checkpoint,
    save_checkpoint,
)
from autoreg.training.claim import DatasetRecord
from autoreg.training.refinement_record import RefinedPair, RefinementRecord, Scores
from autoreg.training.splits import FoldNames

SECRET = "patient_mueller"
DATASET = "Dataset003_Heads"
LONG = (9.0, 9.0, 9.0)


@pytest.fixture
def author(tmp_path):
    """A trained model with everything that a training leaves behind, under a telling folder."""
    plan = tiny_plan(
        dataset=DATASET,
        configuration="small",
        reasons={"grid.shape": f"by /home/anna {SECRET}/grid.txt", "grid.spacing_mm": "a / b"},
    )
    model = save_model(tmp_path / SECRET / "results" / DATASET / "small", plan, fold="0")
    labels, modalities = plan.labels, plan.fixed_modalities
    save_record(DatasetRecord(DATASET, labels, modalities, modalities), model / "dataset.json")
    final = model / "fold_0" / "checkpoint_final.pt"
    before = load_checkpoint(final)
    names = FoldNames((SECRET,), ())
    resume = ResumeState({"s": torch.ones(3)}, {}, 0.5, None, (), EpochSoFar(), names, False)
    for which in ("best", "latest"):
        weights = {name: value * 0.5 for name, value in before.network.items()}
        half = dataclasses.replace(before, network=weights, resume=resume)
        save_checkpoint(final.with_name(f"checkpoint_{which}.pt"), half)
    scores = Scores(0.5, None, 0.0)
    refinement = RefinementRecord(
        1, True, "Dice rises", "dice", True, f"{final} (7 epochs)", scores, scores,
        load_field(), (RefinedPair(SECRET, "b", scores, scores, 1, 1),), 2,
    )  # fmt: skip
    save_record(refinement, model / "fold_0" / "refinement.json")
    (model / "fold_0" / "progress.json").write_text('{"format": 1, "epochs": []}')
    (model / "fold_0" / "progress.png").write_bytes(b"\x89PNG picture")
    (model / "fold_0" / "training.log").write_text(f"read /data/{SECRET}.nii.gz")
    (model / "fold_0" / "validation.json").write_text(json.dumps({"pairs": [{"fixed": SECRET}]}))
    return model


def load_field():
    from autoreg.registration.field_presets import PRESETS

    return PRESETS["fast"]


def export(model, archive, *flags):
    return main_export(["-m", str(model), "-o", str(archive), *flags])


def contents(archive):
    with zipfile.ZipFile(archive) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def test_a_model_comes_back_bit_for_bit_and_predicts_the_same(
    author, tmp_path, pair_folder, capsys
):
    archive, results = tmp_path / "model.zip", tmp_path / "user"
    assert export(author, archive) == 0
    assert main_install([str(archive), "--results", str(results)]) == 0
    installed = results / DATASET / "small"
    before, after = (load_checkpoint(m / "fold_0/checkpoint_final.pt") for m in (author, installed))
    assert list(before.network) == list(after.network)
    assert all(torch.equal(before.network[n], after.network[n]) for n in before.network)
    assert after.resume is None
    assert (after.fold, after.levels, after.versions) == ("0", before.levels, before.versions)
    assert not list((results / DATASET).glob(".*"))

    command = capsys.readouterr().out.rsplit("predict with: autoreg_predict ", 1)[1].split()
    fields = []
    options = ["--io", "none", "--device", "cpu", "--refine", "off"]
    for number, model in enumerate((["-m", str(author)], command[: command.index("-i")])):
        out = tmp_path / f"out{number}"
        assert main_predict([*model, "-i", str(pair_folder), "-o", str(out), *options]) == 0
        (path,) = (out / "two").glob("displacement*")
        fields.append(sitk.GetArrayFromImage(sitk.ReadImage(str(path))))
    assert np.abs(fields[0]).max() > 0.1
    assert np.array_equal(*fields)


def test_an_archive_tells_neither_cases_nor_folders(author, tmp_path, capsys):
    archive = tmp_path / "model.zip"
    assert export(author, archive) == 0
    assert "training.log" in capsys.readouterr().out
    inside = contents(archive)
    assert set(inside) == {
        "manifest.json", "plan.json", "dataset.json", "fold_0/checkpoint_final.pt",
        "fold_0/progress.json", "fold_0/progress.png", "fold_0/refinement.json",
    }  # fmt: skip
    words = (SECRET, str(tmp_path), os.environ.get("USER") or SECRET, "/home/")
    for name, content in {**inside, "archive": archive.read_bytes()}.items():
        for word in words:
            assert word.encode() not in content, (name, word)
    reasons = json.loads(inside["plan.json"])["reasons"]
    assert reasons == {"grid.shape": LEFT_OUT, "grid.spacing_mm": "a / b"}
    refinement = json.loads(inside["fold_0/refinement.json"])
    assert (refinement["pairs"], refinement["helps"]) == ([], True)
    assert refinement["weights"] == "checkpoint_final.pt (7 epochs)"


def test_cases_are_named_on_request_and_folders_never(author, tmp_path):
    archive = tmp_path / "model.zip"
    assert export(author, archive, "--with-cases") == 0
    inside = contents(archive)
    assert SECRET.encode() in inside["fold_0/validation.json"]
    assert json.loads(inside["fold_0/refinement.json"])["pairs"][0]["fixed"] == SECRET
    assert all(str(author).encode() not in content for content in inside.values())
    assert main_install([str(archive), "--results", str(tmp_path / "user")]) == 0


def test_the_weights_that_are_asked_for_are_taken(author, tmp_path):
    archive, results = tmp_path / "model.zip", tmp_path / "user"
    assert export(author, archive, "--checkpoint", "best") == 0
    assert "fold_0/checkpoint_best.pt" in contents(archive)
    assert "fold_0/checkpoint_final.pt" not in contents(archive)
    assert main_install([str(archive), "--results", str(results)]) == 0
    path = results / DATASET / "small/fold_0/checkpoint_best.pt"
    best, final = load_checkpoint(path), load_checkpoint(author / "fold_0/checkpoint_final.pt")
    assert all(torch.equal(best.network[n], 0.5 * final.network[n]) for n in final.network)


def test_the_folds_that_are_asked_for_are_taken(author, tmp_path, capsys):
    before = load_checkpoint(author / "fold_0/checkpoint_final.pt")
    save_checkpoint(author / "fold_all/checkpoint_best.pt", dataclasses.replace(before, fold="all"))
    archive = tmp_path / "model.zip"
    assert export(author, archive, "--folds", "all") == 0
    assert json.loads(contents(archive)["manifest.json"])["folds"] == ["all"]
    assert export(author, archive, "--overwrite") == 0
    assert {"fold_0/checkpoint_final.pt", "fold_all/checkpoint_best.pt"} < set(contents(archive))
    capsys.readouterr()
    assert main_install([str(archive), "--results", str(tmp_path / "user")]) == 0
    out = capsys.readouterr().out
    assert "fold 0 (final), fold all (best)" in out
    assert "--fold 0 " in out
    for flags, words in (
        (["--checkpoint", "final"], "fold all has no checkpoint_final.pt"),
        (["--folds", "3"], "fold 3 is not trained; these are: 0, all"),
    ):
        assert export(author, archive, "--overwrite", *flags) == 2
        assert words in capsys.readouterr().err


def test_an_existing_file_is_kept(author, tmp_path, capsys):
    archive = tmp_path / "model.zip"
    archive.write_text("mine")
    assert export(author, archive) == 2
    assert "exists already" in capsys.readouterr().err
    assert archive.read_text() == "mine"
    assert export(author, archive, "--overwrite") == 0
    assert zipfile.is_zipfile(archive)
    assert export(author, tmp_path / "model.tar") == 2
    assert export(author, tmp_path) == 2


def test_a_model_that_does_not_fit_its_plan_is_not_exported(author, tmp_path, capsys):
    plan = load_record(Plan, author / "plan.json")
    grid = dataclasses.replace(plan.grid, shape=(20, 20, 16))
    save_record(dataclasses.replace(plan, grid=grid), author / "plan.json")
    assert export(author, tmp_path / "model.zip") == 2
    assert "does not fit" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == [SECRET]


def test_an_existing_model_is_kept_unless_it_may_be_replaced(author, tmp_path, capsys):
    archive, results = tmp_path / "model.zip", tmp_path / "user"
    model = results / DATASET / "small"
    assert export(author, archive) == 0
    install = [str(archive), "--results", str(results)]
    assert main_install(install) == 0
    (model / "mine.txt").write_text("mine")
    assert main_install(install) == 2
    assert "exists already" in capsys.readouterr().err
    assert (model / "mine.txt").exists()
    for number in (1, 2):
        (model / "mine.txt").write_text(f"mine {number}")
        assert main_install([*install, "--overwrite"]) == 0
    assert not (model / "mine.txt").exists()
    kept = [p.read_text() for p in sorted(model.rglob("mine.txt"))]
    assert sorted(kept) == ["mine 1", "mine 2"]
    # One model, also for commands that look for models.
    assert [p.parent.name for p in results.glob("*/*/plan.json")] == ["small"]


@pytest.mark.parametrize("begins", ["before", "meanwhile"])
def test_a_model_that_is_being_trained_is_not_replaced(
    author, tmp_path, capsys, monkeypatch, begins
):
    archive, results = tmp_path / "model.zip", tmp_path / "user"
    assert export(author, archive) == 0
    install = [str(archive), "--results", str(results)]
    assert main_install(install) == 0
    fold = results / DATASET / "small" / "fold_1"
    fold.mkdir()
    before = sorted(results.rglob("*"))
    with ExitStack() as training:

        def begin(*_):
            training.enter_context(locked_folder(fold, wait=False))

        if begins == "before":
            begin()
        else:
            monkeypatch.setattr(model_archive_install, "_rename", begin)
        assert main_install([*install, "--overwrite"]) == 2
        assert "being trained" in capsys.readouterr().err
        assert sorted(results.rglob("*")) == before
    monkeypatch.undo()
    assert main_install([*install, "--overwrite"]) == 0


def test_a_model_can_be_installed_under_other_names(author, tmp_path):
    archive, results = tmp_path / "model.zip", tmp_path / "user"
    assert export(author, archive) == 0
    flags = ["--results", str(results), "--dataset", "Dataset009_Mine", "--config", "shared"]
    assert main_install([str(archive), *flags]) == 0
    model = results / "Dataset009_Mine" / "shared"
    plan = load_record(Plan, model / "plan.json")
    assert (plan.dataset, plan.configuration) == ("Dataset009_Mine", "shared")
    assert load_record(DatasetRecord, model / "dataset.json").name == "Dataset009_Mine"
    assert not (results / DATASET).exists()
    for flags in (["--config", "../up"], ["--dataset", "a/b"], ["--config", ".hidden"]):
        assert main_install([str(archive), "--results", str(results), *flags]) == 2
    assert [p.name for p in results.iterdir()] == ["Dataset009_Mine"]


@pytest.mark.parametrize(
    "text",
    [
        "from /home/a/b.pt", "weights of /home/anna maria/models/best.pt", r"C:\Users\Anna Maria\b",
        "in ../anna maria/x", "see anna maria/models", "file:///data", "~/x", "C:/anna", "to anna/",
        r"\\server\share", r"anna\b", "documentation/anna/a.md", "/home/documentation/a.md",
        "my documentation/a b.md",
    ],
)  # fmt: skip
def test_a_reason_in_which_a_path_may_stand_is_left_out(text):
    assert without_paths(text) == LEFT_OUT


def test_reasons_of_the_planner_are_kept():
    reasons = {
        **SITREG_REASONS, **TRANSMORPH_REASONS, **tiny_plan().reasons,
        "spacing": grid_spacing(FieldOfView(LONG, LONG, LONG), (8, 8, 8)).reason,
        "architecture": choose_architecture(get_budget("cpu")).reason,
    }  # fmt: skip
    assert "/" in reasons["spacing"]
    assert "/" in reasons["architecture"]
    assert {key: without_paths(text) for key, text in reasons.items()} == reasons


def test_imported_weights_without_a_training_can_be_shared(tmp_path):
    model = save_model(tmp_path / "imported", tiny_plan())
    archive = tmp_path / "model.zip"
    assert export(model, archive) == 0
    shutil.rmtree(model)
    assert main_install([str(archive), "--results", str(tmp_path / "user")]) == 0
    assert isinstance(load_checkpoint(next(tmp_path.rglob("*.pt"))), Checkpoint)
