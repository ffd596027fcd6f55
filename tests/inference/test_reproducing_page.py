"""The commands of documentation/reproducing_the_papers.md run, on small trees as published."""

import json
import re
import shlex
from pathlib import Path

import published_lpba40
import published_lung250m_4b
import pytest
import torch
from published_brains import lumir_tree, one_image
from raw_datasets import write_json
from tiny_models import strong_weights

from autoreg.dataset_conversion import lpba40, lumir
from autoreg.dataset_conversion.cli import main as main_convert
from autoreg.evaluation.cli import main as main_evaluate
from autoreg.inference import compare_io_report
from autoreg.inference.cli import main_import_weights, main_predict
from autoreg.inference.cli_compare_io import main as main_compare
from autoreg.inference.cli_submission import main as main_export
from autoreg.network_plan import GradICONPlan
from autoreg.planning import rules
from autoreg.planning.cli import (
    main_fingerprint,
    main_plan,
    main_plan_and_preprocess,
    main_preprocess,
)
from autoreg.training.cli import main as main_train

PAGE = Path(__file__).resolve().parents[2] / "documentation" / "reproducing_the_papers.md"
TEXT = PAGE.read_text("utf-8")
MAINS = {
    "autoreg_convert_dataset": main_convert,
    "autoreg_import_weights": main_import_weights,
    "autoreg_fingerprint": main_fingerprint,
    "autoreg_plan": main_plan,
    "autoreg_plan_and_preprocess": main_plan_and_preprocess,
    "autoreg_preprocess": main_preprocess,
    "autoreg_train": main_train,
    "autoreg_compare_io": main_compare,
    "autoreg_predict": main_predict,
    "autoreg_evaluate": main_evaluate,
    "autoreg_export_submission": main_export,
}
# Of the flags that stand twice the last one counts.
_PLAN = "--workers 1 --no-progress --device cpu"
SHORTER = {
    "autoreg_convert_dataset": "--workers 1",
    "autoreg_fingerprint": "--workers 1 --no-progress",
    "autoreg_plan": "--budget cpu --device cpu",
    "autoreg_plan_and_preprocess": f"{_PLAN} --budget cpu",
    "autoreg_preprocess": _PLAN,
    "autoreg_train": "--epochs 1 --pairs-per-epoch 1 --batch-size 1 --workers 0 --no-progress "
    "--no-refinement-check --device cpu",
    "autoreg_compare_io": "--steps 1 --device cpu",
    "autoreg_predict": "--io-steps 1 --device cpu",
}


def commands(mark):
    """The commands below one mark, in their order."""
    blocks = re.findall(rf"<!-- {mark} -->\n```\n(.*?)```", TEXT, re.S)
    assert blocks
    return [line for block in blocks for line in block.strip().splitlines()]


def run(command):
    name, *words = shlex.split(command)
    assert MAINS[name]([*words, *shlex.split(SHORTER.get(name, ""))]) == 0, command


def keep_pairs(folder, **counts):
    """Leave a few of the pairs of a converted data set."""
    path = folder / "dataset.json"
    data = json.loads(path.read_text())
    for key, count in counts.items():
        assert len(data[key]) > count
        data[key] = data[key][:count]
    path.unlink()  # a link to the conversion's own would be changed otherwise
    write_json(path, data)
    return data


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working folder; slow parts that have tests of their own are left out."""
    monkeypatch.chdir(tmp_path)
    for name in ("autoreg_raw", "autoreg_preprocessed", "autoreg_results"):
        monkeypatch.delenv(name, raising=False)
    for name in ("training_bytes", "instance_optimisation_bytes", "prediction_bytes"):
        monkeypatch.setattr(rules, name, lambda *_, **__: 1)
    monkeypatch.setattr(compare_io_report, "_draw", lambda *_: ((), True))
    return tmp_path


def add_the_papers_plan():
    """The configuration of the page, on a small grid and with a narrow network."""
    (text,) = re.findall(r"<!-- lumir plan -->\n```json\n(.*?)```", TEXT, re.S)
    text = text.replace("[175, 175, 175]", "[16, 16, 16]").replace('"width": 1.0', '"width": 0.125')
    path = Path("autoreg_data/preprocessed/Dataset001_LUMIR/plans.json")
    plans = json.loads(path.read_text())
    plans["configurations"] |= json.loads(f"{{{text}}}")
    path.write_text(json.dumps(plans))


def test_lumir(place, monkeypatch):
    shape, labelled = (20, 28, 24), range(3364, 3374)
    monkeypatch.setattr(lumir, "SHAPE_XYZ", shape)
    monkeypatch.setattr(lumir, "TRAINING_COUNT", 13)
    image, label = one_image(place, shape), one_image(place, shape, lumir.LABEL_VALUES)
    lumir_tree(place / "downloads", image, label, [0, 1, 2, *labelled], labelled)
    weights = strong_weights(GradICONPlan((0.25, 0.5, 1.0, 1.0), 0.125))
    torch.save(weights, "downloads/Step_2_final.trch")
    raw = Path("autoreg_data/raw/Dataset001_LUMIR")
    for command in commands("lumir"):
        if command.startswith("autoreg_preprocess"):
            add_the_papers_plan()
        run(command)
        if command.startswith("autoreg_convert_dataset"):
            kept = keep_pairs(raw, test_pairs=2, validation_pairs=1)
            (pair,) = kept["validation_pairs"]
            path = "./imagesVal/{}_0000.nii.gz".format
            published = {key: path(pair[key]) for key in ("fixed", "moving")}
            write_json(
                Path("downloads/LUMIR/LUMIR_dataset.json"),
                {"validation": [published], "tensorImageShape": {"0": list(shape)}},
            )
    page = Path("lumir_io/compare_io.md").read_text()
    assert "NDV, moving foreground [%]" in page
    plan = json.loads(Path("lumir_io/vanilla_network_1/plan.json").read_text())
    io = plan["instance_optimisation"]
    assert (io["optimiser"], io["learning_rate"], io["weight_decay"]) == ("amsgrad", 2e-5, 1e-3)
    assert plan["training"]["augmentation"]["from_epoch"] <= 50
    assert Path("submission.zip").exists()


def test_lpba40(place, monkeypatch):
    shape, crop = (22, 25, 24), ((2, 1), (3, 1), (0, 4))
    monkeypatch.setattr(lpba40, "SHAPE_XYZ", shape)
    monkeypatch.setattr(lpba40, "CROP_XYZ", crop)
    monkeypatch.setattr(published_lpba40, "NATIVE_SHAPE", (30, 16, 30))
    for seed, subject in enumerate(lpba40.SUBJECTS):
        published_lpba40.write_subject(place / "downloads/LPBA40", subject, seed, shape=shape)
    for command in commands("lpba40"):
        run(command)
        if command.startswith("autoreg_convert_dataset"):
            keep_pairs(Path("autoreg_data/raw/Dataset001_LPBA40"), test_pairs=1, validation_pairs=1)
    assert "| IO-GP, 1 steps, velocity" in Path("lpba40_io/compare_io.md").read_text()


def test_lung250m_4b(place, monkeypatch):
    monkeypatch.setattr(published_lung250m_4b, "SHAPE", (22, 24, 20))
    numbers = [n for n in range(124) if n not in range(12)]
    source = place / "downloads/Lung250M-4B"
    for number in numbers:
        published_lung250m_4b.write_case(source, number)
    scored = (*published_lung250m_4b.TEST, *published_lung250m_4b.VALIDATION)
    tables = published_lung250m_4b.landmark_tables([n for n in scored if n in numbers])
    published_lung250m_4b.write_landmarks(source, tables)
    for command in commands("lung"):
        run(command)
        if command.startswith("autoreg_convert_dataset"):
            raw = Path("autoreg_data/raw/Dataset001_Lung250M-4B")
            keep_pairs(raw, test_pairs=1, validation_pairs=1, training_pairs=4)
    page = Path("lung_io/compare_io.md").read_text()
    assert "TRE mean [mm]" in page
    assert "| no IO, refine balanced" in page


@pytest.mark.parametrize(
    "line", [line for line in TEXT.splitlines() if line.startswith("autoreg_")]
)
def test_every_command_is_known_with_its_flags(line, monkeypatch):
    name, *words = shlex.split(line)
    accepted = []
    module = MAINS[name].__globals__
    monkeypatch.setitem(module, "run_command", lambda body, arguments: accepted.append(arguments))
    MAINS[name](words)
    assert accepted


def test_a_new_user_finds_the_published_numbers_unchanged():
    for row in (
        "74.57 ± 2.65 | | 3.58 ± 0.30 | | 0.106 ± 0.136",
        "75.23 ± 2.55 | | 3.51 ± 0.30 | | 0.405 ± 0.343",
        "75.26 ± 2.56 | | 3.50 ± 0.29 | | 0.400 ± 0.351",
        "75.39 ± 2.55 | | 3.51 ± 0.29 | | 0.678 ± 0.506",
        "75.40 ± 2.54 | | 3.51 ± 0.30 | | 0.625 ± 0.536",
    ):
        assert row in TEXT
