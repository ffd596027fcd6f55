"""Archives that somebody has damaged or made up: one message, and nothing is left behind."""

import dataclasses
import hashlib
import io
import json
import os
import stat
import zipfile

import numpy as np
import pytest
import torch
from tiny_models import GRID, NETWORK, save_model

from autoreg.errors import DataError
from autoreg.inference import published_plan
from autoreg.inference.cli_model_archive import main_export, main_install
from autoreg.inference.model_archive import ArchivedFile
from autoreg.inference.model_archive_install import InstallRequest, install_model
from autoreg.inference.model_archive_read import checked_manifest, extract, opened
from autoreg.io.records import to_plain
from autoreg.networks.factory import build_network
from autoreg.plan import MemoryPlan
from autoreg.training.checkpoint import load_checkpoint, save_checkpoint

WEIGHTS = "fold_all/checkpoint_final.pt"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A sound archive."""
    folder = tmp_path_factory.mktemp("archive")
    with pytest.MonkeyPatch.context() as patch:
        # What the plan says of memory means nothing here, and takes ten seconds to estimate.
        patch.setattr(
            published_plan, "estimate_memory", lambda *_, **__: MemoryPlan(0, 2**20, 2**20, 2**20)
        )
        plan = published_plan.published_plan(NETWORK, 1, GRID, "MR")
    model = save_model(folder / "model", plan)
    (model / "fold_all" / "progress.json").write_text('{"format": 1, "epochs": []}')
    assert main_export(["-m", str(model), "-o", str(folder / "model.zip")]) == 0
    return folder / "model.zip"


@pytest.fixture
def files(sound):
    """Its content by name, to be changed and packed again."""
    with zipfile.ZipFile(sound) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def signed(files):
    """The files with a manifest that agrees with them, whatever they are."""
    manifest = json.loads(files["manifest.json"])
    others = {name: data for name, data in files.items() if name != "manifest.json"}
    manifest["files"] = {
        name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in others.items()
    }
    return {"manifest.json": json.dumps(manifest).encode(), **others}


def pack(path, entries, method=zipfile.ZIP_STORED):
    """A zip file of (name or ZipInfo, data)."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


@pytest.fixture
def refused(tmp_path, capsys):
    """Installs an archive that must be refused in one message that leaves nothing behind."""

    def check(archive, *words):
        before = sorted(tmp_path.rglob("*"))
        assert main_install([str(archive), "--results", str(tmp_path / "results")]) == 2
        # The folder is called after the test, whose name may hold the word that is looked for.
        message = capsys.readouterr().err.replace(str(tmp_path), "")
        assert message.startswith("error: ")
        assert ".partial_" not in message
        assert sorted(tmp_path.rglob("*")) == before
        for word in words:
            assert word in message, message

    return check


def test_what_the_tests_change_was_sound(sound, files, tmp_path):
    archive = pack(tmp_path / "a.zip", signed(files).items())
    for path in (sound, archive):
        assert main_install([str(path), "--results", str(tmp_path / path.stem)]) == 0


@pytest.mark.parametrize(
    "name",
    [
        "/etc/autoreg.json", "../plan.json", "fold_all/../../plan.json", "..\\plan.json",
        "C:\\plan.json", "C:/plan.json", "fold_all\\progress.json", "./plan.json", "fold_all/",
        "fold_all//progress.json", "Plan.json", "plan.json ", "fold_all/run.py", "fold_all/a.pt",
        "fold_../plan.json", "fold_all/checkpoint_latest.pt", "fold_all/training.log", ".hidden",
        "fold_99999/progress.json", "fold_all/progress.json/x", "con",
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_listed", [True, False])
def test_names_that_no_model_has(files, tmp_path, refused, name, is_listed):
    if is_listed:
        files[name] = b"{}"
        files = signed(files)
    else:
        files[name] = b"{}"
    refused(pack(tmp_path / "a.zip", files.items()), "refused")


def test_a_name_that_a_null_byte_cuts_off(files, tmp_path, refused):
    files["fold_all/progress.json+.txt"] = files.pop("fold_all/progress.json")
    data = pack(tmp_path / "a.zip", files.items()).read_bytes()
    (tmp_path / "a.zip").write_bytes(data.replace(b"json+.txt", b"json\0.txt"))
    refused(tmp_path / "a.zip", "no file of a model")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFDIR, stat.S_IFIFO, stat.S_IFCHR])
def test_links_folders_and_devices(files, tmp_path, refused, kind):
    files["fold_all/progress.json"] = b"/etc/passwd"
    entries = signed(files)
    link = zipfile.ZipInfo("fold_all/progress.json")
    link.create_system, link.external_attr = 3, (kind | 0o777) << 16
    data = entries.pop("fold_all/progress.json")
    refused(pack(tmp_path / "a.zip", [*entries.items(), (link, data)]), "link")


def test_a_name_that_stands_twice(files, tmp_path, refused):
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive = pack(tmp_path / "a.zip", [*files.items(), ("plan.json", b"{}")])
    refused(archive, "twice", "plan.json")


def test_files_that_are_missing_or_not_listed(files, tmp_path, refused):
    without = {name: data for name, data in files.items() if name != "plan.json"}
    refused(pack(tmp_path / "a.zip", without.items()), "missing", "plan.json")
    extra = {**files, "fold_0/progress.json": b"{}"}
    refused(pack(tmp_path / "b.zip", extra.items()), "not in its manifest", "fold_0/progress.json")
    refused(pack(tmp_path / "c.zip", signed(without).items()), "plan.json")
    refused(pack(tmp_path / "d.zip", [("plan.json", files["plan.json"])]), "no manifest.json")


def test_another_content_or_size_than_the_manifest_says(files, tmp_path, refused):
    plan, weights = files["plan.json"], files[WEIGHTS]
    same_size = plan.replace(b'"8gb"', b'"cpu"')
    changed = {**files, "plan.json": same_size}
    assert len(same_size) == len(plan)
    assert same_size != plan
    refused(pack(tmp_path / "a.zip", changed.items()), "SHA-256", "plan.json")
    refused(pack(tmp_path / "b.zip", {**files, WEIGHTS: weights[:-1]}.items()), "another size")
    refused(pack(tmp_path / "c.zip", {**files, "plan.json": plan + b" "}.items()), "another size")


def test_bytes_beyond_the_declared_ones_are_not_written(sound, tmp_path):
    """Even where the zip file itself says so."""
    with opened(sound) as archive:
        manifest = checked_manifest(archive, sound)
        size = manifest.files[WEIGHTS].size
        lie = {**manifest.files, WEIGHTS: ArchivedFile(100, manifest.files[WEIGHTS].sha256)}
        with pytest.raises(DataError, match="more than the 100 bytes"):
            extract(archive, dataclasses.replace(manifest, files=lie), sound, tmp_path)
    assert (tmp_path / WEIGHTS).stat().st_size <= 100 < size


def test_bombs(files, tmp_path, refused):
    zeros = bytes(2**28 + 1)
    big = signed({**files, "fold_all/progress.json": zeros})
    refused(pack(tmp_path / "a.zip", big.items(), zipfile.ZIP_DEFLATED), "refused", "unpack")
    weights = signed({**files, WEIGHTS: zeros[: 2**24]})
    refused(pack(tmp_path / "b.zip", weights.items(), zipfile.ZIP_DEFLATED), "refused", "unpack")
    many = {**files, **{f"fold_{n}/progress.json": b"{}" for n in range(1000)}}
    refused(pack(tmp_path / "c.zip", signed(many).items()), "entries")


def test_a_bomb_inside_of_a_checkpoint(files, tmp_path, refused):
    inner, content = io.BytesIO(), io.BytesIO(files[WEIGHTS])
    with (
        zipfile.ZipFile(content) as source,
        zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    changed = signed({**files, WEIGHTS: inner.getvalue()})
    refused(pack(tmp_path / "a.zip", changed.items()), "compressed")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"format": 2}, "format 2"),
        ({"format": None}, "format null"),
        ({"dataset": ".."}, "refused"),
        ({"dataset": "a/b"}, "refused"),
        ({"configuration": "../../up"}, "refused"),
        ({"configuration": "C:x"}, "refused"),
        ({"configuration": ""}, "refused"),
        ({"configuration": "another"}, "manifest says"),
        ({"folds": []}, "folds"),
        ({"folds": ["all", "all"]}, "folds"),
        ({"folds": ["0"]}, "folds"),
        ({"surprise": 1}, "surprise"),
        ({"files": {}}, "not in its manifest"),
        ({"files": {"plan.json": {"size": -1, "sha256": ""}}}, "refused"),
    ],
)
def test_manifests_that_cannot_be(files, tmp_path, refused, change, word):
    manifest = {**json.loads(files["manifest.json"]), **change}
    files["manifest.json"] = json.dumps(manifest).encode()
    refused(pack(tmp_path / "a.zip", files.items()), word)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b"{", b"\xff\xfe", b"[" * 200_000, b" " * (2**20 + 1)]
)
def test_manifests_that_cannot_be_read(files, tmp_path, refused, content):
    refused(pack(tmp_path / "a.zip", {**files, "manifest.json": content}.items()), "manifest.json")


@pytest.mark.parametrize("name", ["plan.json", "fold_all/progress.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 200_000, b'{"a": 1, "a": 1}'])
def test_records_that_cannot_be_read(files, tmp_path, refused, name, content):
    refused(pack(tmp_path / "a.zip", signed({**files, name: content}).items()))


def test_a_plan_that_does_not_fit_the_weights(files, tmp_path, refused):
    plan = json.loads(files["plan.json"])
    plan["grid"]["shape"] = [20, 20, 16]
    changed = {**files, "plan.json": json.dumps(plan).encode()}
    refused(pack(tmp_path / "a.zip", signed(changed).items()), "grid.shape", "plan.json")


def test_another_version_is_told_where_it_may_be_the_cause(files, tmp_path, refused):
    plan = {**json.loads(files["plan.json"]), "later": 1}
    manifest = {**json.loads(files["manifest.json"]), "autoreg": "9.9.9"}
    files |= {
        "plan.json": json.dumps(plan).encode(),
        "manifest.json": json.dumps(manifest).encode(),
    }
    refused(pack(tmp_path / "a.zip", signed(files).items()), "later", "written by autoreg 9.9.9")


class Attack:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def test_a_checkpoint_that_would_run_code(files, tmp_path, refused):
    content = torch.load(io.BytesIO(files[WEIGHTS]), weights_only=True)
    content["versions"] = Attack(tmp_path / "was_here")
    changed = signed({**files, WEIGHTS: saved(content)})
    refused(pack(tmp_path / "a.zip", changed.items()), "nothing in it was executed")
    assert not (tmp_path / "was_here").exists()


def plain(values):
    return {**values, "network": None}


def too_wide(values):
    """Of a network that no machine has the memory for."""
    values["plan"]["network"]["width"] = 10_000
    return values


def first(values, change):
    name = next(iter(values["network"]))
    return {**values, "network": {**values["network"], name: change(values["network"][name])}}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (plain, "no model"),
        (too_wide, "expected"),
        (lambda v: {**v, "fold": "0"}, "fold all"),
        (lambda v: {**v, "levels": "two"}, "whole numbers"),
        (lambda v: {**v, "format": 99}, "format 99"),
        (lambda v: {**v, "plan": {}}, "plan"),
        (lambda v: {**v, "network": {}}, "missing"),
        (lambda v: first(v, lambda t: t[:1]), "shape"),
        (lambda v: first(v, lambda t: t * np.nan), "not finite"),
        (lambda v: first(v, lambda t: "text"), "tensors"),
        (lambda v: first(v, lambda t: t.to_sparse()), "plain values and tensors"),
        (lambda v: first(v, lambda t: t.to("meta")), "tensors"),
        (lambda v: {**v, "network": {**v["network"], "extra": torch.ones(1)}}, "unexpected"),
        (lambda v: list(v), "checkpoint"),
    ],
)
def test_checkpoints_that_are_none(files, tmp_path, refused, change, word):
    content = change(torch.load(io.BytesIO(files[WEIGHTS]), weights_only=True))
    changed = signed({**files, WEIGHTS: saved(content)})
    refused(pack(tmp_path / "a.zip", changed.items()), word)


def archive_of(path, files, content, network=None):
    """An archive with another checkpoint, and that network in both plans."""
    if network is not None:
        plan = json.loads(files["plan.json"])
        content["plan"]["network"] = plan["network"] = network
        files = {**files, "plan.json": json.dumps(plan).encode()}
    return pack(path, signed({**files, WEIGHTS: saved(content)}).items())


def overlapping(templates):
    """Views of one number, which stands in the file once, whatever their shapes."""
    return {name: torch.zeros((), dtype=t.dtype).expand(t.shape) for name, t in templates.items()}


def shared(templates):
    """Contiguous views, each kind of numbers of one storage, which stands in the file once."""
    kinds = {t.dtype for t in templates.values()}
    most = max(t.numel() for t in templates.values())
    storage = {kind: torch.zeros(most, dtype=kind) for kind in kinds}
    return {name: storage[t.dtype][: t.numel()].view(t.shape) for name, t in templates.items()}


@pytest.mark.parametrize("faked", [overlapping, shared])
def test_weights_that_have_no_bytes_of_their_own(files, tmp_path, refused, faked):
    """They fit a network that is larger than the archive, by as much as one likes."""
    content = torch.load(io.BytesIO(files[WEIGHTS]), weights_only=True)
    network = dataclasses.replace(NETWORK, width=0.25)
    with torch.device("meta"):
        template = build_network(network, 1).state_dict()
    content["network"] = faked(template)
    archive = archive_of(tmp_path / "a.zip", files, content, to_plain(network))
    assert sum(t.numel() * t.element_size() for t in template.values()) > archive.stat().st_size
    refused(archive, "more than the file")


class Called:
    """Is what a function returns when it is unpickled."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


@pytest.mark.parametrize(
    ("call", "word"), [((bytearray, 1000), "bytearray"), ((torch.Tensor, 10, 10), "torch.Tensor")]
)
def test_a_checkpoint_that_asks_for_memory_when_it_is_read(files, tmp_path, refused, call, word):
    """torch.load allows these with weights_only=True, and any size."""
    content = torch.load(io.BytesIO(files[WEIGHTS]), weights_only=True)
    content["versions"] = Called(*call)
    assert torch.load(io.BytesIO(saved(content)), weights_only=True)["versions"] is not None
    refused(archive_of(tmp_path / "a.zip", files, content), word, "refused")


def test_a_checkpoint_of_the_older_format_that_ends_as_a_zip_file(files, tmp_path, refused):
    """torch.load takes it for the older one, which says by itself how large its tensors are."""
    content = torch.load(io.BytesIO(files[WEIGHTS]), weights_only=True)
    older = io.BytesIO()
    torch.save(content, older, _use_new_zipfile_serialization=False)
    data = older.getvalue() + files[WEIGHTS]
    assert torch.load(io.BytesIO(data), weights_only=True)["fold"] == "all"
    refused(pack(tmp_path / "a.zip", signed({**files, WEIGHTS: data}).items()), "another format")


def test_a_plan_of_more_modules_than_the_file_has_tensors(files, tmp_path, refused):
    content = torch.load(io.BytesIO(files[WEIGHTS]), weights_only=True)
    network = {
        "architecture": "transmorph", "variant": "half", "embedding": 4, "heads": [1, 1, 1, 1],
        "depths": [1, 1, 1000, 1], "window": [2, 2, 2], "drop_path": 0.0,
    }  # fmt: skip
    archive = archive_of(tmp_path / "a.zip", files, content, network)
    refused(archive, "modules", f"tensors ({len(content['network'])})")


def test_a_checkpoint_with_the_state_of_its_training_is_refused(files, tmp_path, refused):
    content = torch.load(io.BytesIO(files[WEIGHTS]), weights_only=True)
    content["resume"] = {"format": 2}
    refused(pack(tmp_path / "a.zip", signed({**files, WEIGHTS: saved(content)}).items()))


def test_what_is_no_archive(sound, tmp_path, refused):
    empty, text = tmp_path / "empty.zip", tmp_path / "text.zip"
    empty.write_bytes(b"")
    text.write_text("no zip")
    for path, word in (
        (empty, "empty.zip: not a zip file"),
        (text, "text.zip: not a zip file"),
        (tmp_path / "none.zip", "none.zip: no such file"),
        (tmp_path, "is a folder"),
    ):
        refused(path, word)
    refused(pack(tmp_path / "nothing.zip", []), "no manifest.json")


def test_an_encrypted_entry_and_another_compression(files, tmp_path, refused):
    refused(pack(tmp_path / "a.zip", files.items(), zipfile.ZIP_BZIP2), "compressed")
    data = bytearray(pack(tmp_path / "b.zip", files.items()).read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 8] |= 1
    (tmp_path / "b.zip").write_bytes(data)
    refused(tmp_path / "b.zip", "refused", "encrypted")


def test_a_truncated_archive(sound, tmp_path, refused):
    data = sound.read_bytes()
    for share in (0.01, 0.3, 0.7, 0.999):
        path = tmp_path / "cut.zip"
        path.write_bytes(data[: int(share * len(data))])
        refused(path, "copy it again")


def test_random_damage_is_found_or_does_not_matter(sound, tmp_path, capsys):
    data = sound.read_bytes()
    with zipfile.ZipFile(sound) as archive:
        (tmp_path / "before.pt").write_bytes(archive.read(WEIGHTS))
    before = load_checkpoint(tmp_path / "before.pt").network
    generator = np.random.default_rng(0)
    places = [*generator.integers(len(data) - 900, len(data), 40), *generator.integers(0, 900, 20)]
    places += list(generator.integers(0, len(data), 10))
    path, found = tmp_path / "damaged.zip", 0
    for number, place in enumerate(places):
        damaged = bytearray(data)
        damaged[place] ^= int(generator.integers(1, 256))
        path.write_bytes(damaged)
        results = tmp_path / f"results{number}"
        if main_install([str(path), "--results", str(results)]) == 2:
            assert not results.exists()
            found += 1
        else:
            (weights,) = results.glob(f"*/*/{WEIGHTS}")
            after = load_checkpoint(weights).network
            assert all(torch.equal(before[name], after[name]) for name in before)
        assert capsys.readouterr().err.count("error:") <= 1
    assert found > len(places) / 2


def test_a_failing_move_leaves_both_models(sound, tmp_path, monkeypatch):
    results = tmp_path / "results"
    first_model = install_model(InstallRequest(sound, results)).model
    (first_model / "mine.txt").write_text("mine")
    before = sorted(results.rglob("*"))
    rename = type(first_model).rename

    def failing(path, target):
        if path.name == "model":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(type(first_model), "rename", failing)
    with pytest.raises(KeyboardInterrupt):
        install_model(InstallRequest(sound, results, overwrite=True))
    assert sorted(results.rglob("*")) == before


def test_a_full_disk_is_told_before(sound, tmp_path, monkeypatch, refused):
    class Usage:
        free = 1000

    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage)
    refused(sound, "MB are free")


def test_an_interrupted_installation_leaves_nothing(sound, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("autoreg.inference.model_archive_weights.load_network", interrupted)
    assert main_install([str(sound), "--results", str(tmp_path / "deep" / "results")]) == 130
    assert not list(tmp_path.iterdir())


def test_the_weights_of_an_installed_model_are_on_disk_as_they_were(sound, tmp_path):
    model = install_model(InstallRequest(sound, tmp_path / "results")).model
    with zipfile.ZipFile(sound) as archive:
        assert (model / WEIGHTS).read_bytes() == archive.read(WEIGHTS)
    checkpoint = load_checkpoint(model / WEIGHTS)
    save_checkpoint(tmp_path / "again.pt", checkpoint)
    assert checkpoint.fold == "all"
