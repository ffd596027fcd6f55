"""Bad input of autoreg_register: one clear message, exit status 2."""

import errno
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from pair_phantom import pair
from small_files import no_file_larger_than

from autoreg.inference import choices, register
from autoreg.inference.cli_register import main
from autoreg.registration.field_presets import PRESETS
from autoreg.training.model_folder import WHICH

# Enough of one to be known as a result.
RESULT = '{"format": 3, "case": "out", "inputs": {}}'


def array_image(array, like=None):
    image = sitk.GetImageFromArray(array)
    if like is not None:
        image.CopyInformation(like)
    return image


@pytest.fixture
def files(tmp_path):
    """A good pair, f and m, and whatever is wrong with others."""
    fixed, moving = pair(2, moving_orientation="LPS")
    volume = sitk.JoinSeries([fixed] * 6)
    broken = sitk.GetArrayFromImage(moving)
    broken[4, 5] = np.nan
    shifted = sitk.Image(moving)
    shifted.SetOrigin((5000.0, 0.0))
    dot = np.zeros(fixed.GetSize()[::-1], dtype=np.uint8)
    dot[6, 7] = 1
    rgb = np.zeros((20, 20, 3), dtype=np.uint8)
    images = {
        "f": fixed,
        "m": moving,
        "volume": volume,
        "constant": moving * 0,
        "dot": array_image(dot, fixed),
        "nan": array_image(broken, moving),
        "far": shifted,
        "vector": sitk.Compose(moving, moving),
        "mask": array_image(np.ones((20, 20), dtype=np.uint8)),
        "empty": array_image(np.zeros(fixed.GetSize()[::-1], dtype=np.uint8), fixed),
    }
    for name, image in images.items():
        sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
    sitk.WriteImage(sitk.GetImageFromArray(rgb, isVector=True), str(tmp_path / "rgb.png"))
    (tmp_path / "text.nii.gz").write_text("not an image")
    (tmp_path / "notes.docx").write_text("not an image")
    (tmp_path / "points.csv").write_text("1,2,3\n")
    (tmp_path / "plan.json").write_text('{"similarity": "lncc"}')
    (tmp_path / "file").write_text("")
    return tmp_path


CASES = [
    (["-f", "gone.nii.gz"], "--fixed", "gone.nii.gz: no such file"),
    (["-f", "."], "--fixed", "a folder; expected a file", "dcm2niix"),
    (["-m", "volume.nii.gz"], "f.nii.gz is a 2-D image", "volume.nii.gz a 3-D one"),
    (["-m", "constant.nii.gz"], "constant.nii.gz", "constant"),
    (["-m", "nan.nii.gz"], "nan.nii.gz", "1 voxels are NaN"),
    (["-m", "far.nii.gz", "--align", "none"], "far.nii.gz", "do not overlap"),
    (["-m", "vector.nii.gz"], "vector.nii.gz", "components"),
    (["-m", "rgb.png"], "rgb.png", "3 components"),
    (["-m", "text.nii.gz"], "text.nii.gz", "cannot be read"),
    (["-m", "notes.docx"], "notes.docx", "cannot be read"),
    (["-f", "f.nii.gz", "f.nii.gz"], "2 channels of the fixed and 1 of the moving"),
    (["--fixed-mask", "mask.nii.gz"], "mask.nii.gz", "lies elsewhere than its image"),
    (["--fixed-mask", "empty.nii.gz"], "empty.nii.gz", "the mask is empty"),
    (["--fixed-mask", "dot.nii.gz"], "f.nii.gz", "constant within its 1 voxels", "draw it larger"),
    (["--moving-labels", "mask.nii.gz"], "mask.nii.gz", "lies elsewhere"),
    (["--fixed-landmarks", "points.csv"], "points.csv", "x,y,z"),
    (["--plan", "plan.json"], "plan.json", "missing"),
    (["--plan", "plan.json", "--preset", "fast"], "drop one of --plan and --preset"),
    (["-o", "file"], "file", "is a file"),
    (["-o", "out.nii.gz"], "names a file; expected a folder"),
    (["-o", "out.png"], "names a file; expected a folder"),
    (["--device", "gpu"], "--device gpu"),
]


@pytest.mark.parametrize(("changes", "said"), [(c[0], c[1:]) for c in CASES])
def test_bad_input_ends_with_2_and_one_message(files, capsys, changes, said):
    flags = {"-f": ["f.nii.gz"], "-m": ["m.nii.gz"], "-o": ["out"]}
    key = ""
    for word in changes:
        if word.startswith("-"):
            key = word
            flags[key] = []
        else:
            flags[key].append(word)
    words = ("--align", "--preset", "--device")
    command = []
    for flag, values in flags.items():
        command += [flag, *(v if flag in words else str(files / v) for v in values)]
    assert main([*command, "--threads", "1"]) == 2
    error = capsys.readouterr().err
    for part in said:
        assert part in error
    assert error.count("error:") == 1
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "flags",
    [["--preset", "best"], ["--similarity", "ssd"], ["--align", "auto"], ["--threads", "0"]],
)
def test_unknown_values_are_refused_by_the_parser(files, capsys, flags):
    with pytest.raises(SystemExit) as stop:
        main(["-f", str(files / "f.nii.gz"), "-m", str(files / "m.nii.gz"), "-o", "out", *flags])
    assert stop.value.code == 2
    assert flags[0] in capsys.readouterr().err


def test_the_flags_offer_what_there_is():
    assert choices.PRESETS == tuple(PRESETS)
    assert choices.REFINEMENTS == ("auto", "off", *PRESETS)
    assert choices.CHECKPOINTS == WHICH
    assert choices.IO_OPTIMISED == ("network", "velocity", "displacements")
    assert choices.IO_MODES == ("gradient_projection", "vanilla", "none")


@pytest.mark.parametrize("name", ["warped.nii.gz", "warped_0000.nii.gz", "warped_0007.nii.gz"])
def test_inputs_are_never_overwritten_or_removed(files, capsys, name):
    (files / "result.json").write_text(RESULT)  # so that all the names are of results
    (files / name).write_bytes((files / "m.nii.gz").read_bytes())
    flags = ["-f", str(files / "f.nii.gz"), "-m", str(files / name), "-o", str(files)]
    assert main([*flags, "--preset", "fast", "--threads", "1", "--device", "cpu"]) == 2
    assert f"{name}: would be overwritten by the result" in capsys.readouterr().err
    assert (files / name).read_bytes() == (files / "m.nii.gz").read_bytes()
    assert not (files / "unfinished.txt").exists()


def test_a_failed_run_keeps_the_earlier_result_and_leaves_the_reason(files, capsys):
    out = files / "out"
    out.mkdir()
    (out / "result.json").write_text(RESULT)
    flags = ["-f", str(files / "f.nii.gz"), "-m", str(files / "far.nii.gz"), "-o", str(out)]
    assert main([*flags, "--align", "none"]) == 2
    assert (out / "result.json").read_text() == RESULT
    assert "do not overlap" in (out / "unfinished.txt").read_text()


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ({"plan.json": "{}", "fold_0/checkpoint_final.pt": ""}, "holds plan.json, but no result"),
        ({"warped.nii.gz": "mine"}, "holds warped.nii.gz"),
        ({"warped_0001.nii.gz": "mine"}, "holds warped_0001.nii.gz"),
        ({"result.json": '{"accuracy": 1}', "trace.csv": ""}, "holds result.json, trace.csv"),
    ],
)
def test_files_that_are_no_results_are_never_overwritten(files, capsys, theirs, said):
    out = files / "theirs"
    for name, text in theirs.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text)
    flags = ["-f", str(files / "f.nii.gz"), "-m", str(files / "m.nii.gz"), "-o", str(out)]
    for _ in range(2):  # a refused run leaves nothing that would allow the next one
        assert main(flags) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
        found = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
        assert found == set(theirs)
    assert all((out / name).read_text() == text for name, text in theirs.items())


def test_bad_input_leaves_no_folder_behind(files, capsys):
    flags = ["-f", str(files / "f.nii.gz"), "-m", str(files / "volume.nii.gz")]
    assert main([*flags, "-o", str(files / "out")]) == 2
    assert not (files / "out").exists()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory; shrink or crop"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory; shrink or crop"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory; shrink"),
        (RuntimeError("CUDA error: an illegal memory access\nmore"), "the device failed: CUDA"),
        (OSError(errno.ENOSPC, "No space left on device", "x.nii.gz"), "x.nii.gz: No space left"),
    ],
)
@pytest.mark.parametrize("stage", ["_read", "register_pair", "export_pair"])
def test_what_fails_on_the_way_is_one_message(
    files, capsys, caplog, monkeypatch, stage, error, said
):
    def failing(*_, **__):
        raise error

    if stage == "export_pair":
        monkeypatch.setattr(register, "register_pair", lambda *_, **__: _Found())
        monkeypatch.setattr(register, "save_record", lambda *_: None)
        monkeypatch.setattr(register, "_trace_text", lambda _: "")
    monkeypatch.setattr(register, stage, failing)
    out = files / "out"
    flags = ["-f", str(files / "f.nii.gz"), "-m", str(files / "m.nii.gz"), "-o", str(out)]
    assert main([*flags, "--device", "cpu", "--threads", "1"]) == 2
    text = capsys.readouterr().err
    assert said in text
    assert text.startswith("error: case out: ")
    assert len(text.splitlines()) == 1
    assert not caplog.records
    if stage == "_read":
        assert not out.exists()
    else:
        assert said in (out / "unfinished.txt").read_text()


class _Found:
    """In place of a registration whose files cannot be written."""

    plan = pair = network = None

    field = SimpleNamespace(steps=())


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_a_full_disk_ends_with_2_and_keeps_the_earlier_result(files, capfd):
    out = files / "out"
    flags = ["-f", str(files / "f.nii.gz"), "-m", str(files / "m.nii.gz"), "-o", str(out)]
    flags += ["--preset", "fast", "--threads", "1", "--device", "cpu"]
    with no_file_larger_than(3000):
        assert main(flags) == 2
    error = capfd.readouterr().err
    assert "displacement.nii.gz: cannot be written: the file would be larger than" in error
    assert "MB are free" in error
    assert [path.name for path in out.iterdir()] == ["unfinished.txt"]

    assert main(flags) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    capfd.readouterr()
    with no_file_larger_than(3000):
        assert main(flags) == 2
    assert f"the earlier results in {out} are kept" in capfd.readouterr().err
    (out / "unfinished.txt").unlink()
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize("moving", ["constant.nii.gz", "nan.nii.gz"])
def test_an_image_that_cannot_be_used_leaves_everything_untouched(files, capsys, moving):
    out = files / "out"
    flags = ["-f", str(files / "f.nii.gz"), "-m", str(files / moving), "-o", str(out)]
    assert main(flags) == 2
    assert not out.exists()
    out.mkdir()
    (out / "result.json").write_text(RESULT)
    assert main(flags) == 2
    assert [path.name for path in out.iterdir()] == ["result.json"]
    assert moving in capsys.readouterr().err


def test_landmarks_of_different_number_are_refused_before_the_registration(files, capsys):
    (files / "f.csv").write_text("x,y,z\n1,2,3\n4,5,6\n")
    for text, said in (("x,y,z\n1,2,3\n", "1 landmarks, expected 2"), ("1,2,3\n", "first line")):
        (files / "m.csv").write_text(text)
        flags = ["-f", str(files / "f.nii.gz"), "-m", str(files / "m.nii.gz")]
        flags += ["--fixed-landmarks", str(files / "f.csv"), "-o", str(files / "out")]
        assert main([*flags, "--moving-landmarks", str(files / "m.csv")]) == 2
        error = capsys.readouterr().err
        assert "m.csv" in error
        assert said in error
        assert not (files / "out").exists()
