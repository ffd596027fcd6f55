"""autoreg_convert_dataset from the command line to a planned data set."""

from dataclasses import replace

import pytest
from published_brains import lumir_tree, nlst_tree, one_image
from raw_datasets import blob, native, write_array

from autoreg.dataset_conversion import lumir, nlst
from autoreg.dataset_conversion.catalogue import CATALOGUE
from autoreg.dataset_conversion.cli import main
from autoreg.dataset_conversion.conversion import Options
from autoreg.dataset_conversion.registry import CONVERTERS, plan
from autoreg.errors import UsageError
from autoreg.planning.cli import main_plan_and_preprocess


@pytest.fixture
def scans(tmp_path):
    for number, name in enumerate(("anna", "ben", "cara")):
        write_array(tmp_path / f"scans/{name}.nii.gz", blob((20, 18, 16), radius=6, seed=number))
    return tmp_path / "scans"


def test_the_catalogue_and_the_converters_agree():
    assert list(CATALOGUE) == list(CONVERTERS)


def test_a_folder_is_converted_and_kept(scans, tmp_path, capsys):
    raw = str(tmp_path / "raw")
    assert main(["folder", str(scans), "--raw", raw, "--modality", "T1", "--id", "5"]) == 0
    out = capsys.readouterr().out
    assert "Dataset005_scans: 0 files kept, 3 written, 0 removed" in out
    assert "next: autoreg_plan_and_preprocess -d Dataset005_scans" in out
    assert main(["folder", str(scans), "--raw", raw, "--modality", "T1"]) == 0
    assert "3 files kept, 0 written" in capsys.readouterr().out


def test_lumir_is_planned_and_preprocessed(tmp_path, monkeypatch, capsys):
    shape = (20, 28, 24)
    monkeypatch.setattr(lumir, "SHAPE_XYZ", shape)
    image, label = one_image(tmp_path, shape), one_image(tmp_path, shape, lumir.LABEL_VALUES)
    source = lumir_tree(tmp_path / "s", image, label, [0, 1, 2, 3364, 3365], [3364, 3365],
                        validation=range(3454, 3458))  # fmt: skip
    raw, preprocessed = str(tmp_path / "raw"), str(tmp_path / "preprocessed")
    assert main(["lumir", str(source), "--raw", raw]) == 2
    error = capsys.readouterr().err
    assert "5 training images" in error
    assert "--partial" in error
    assert not (tmp_path / "raw").exists()
    assert main(["lumir", str(source), "--raw", raw, "--partial"]) == 0
    out = capsys.readouterr().out
    assert "2 labelled training images are excluded from training" in out
    assert "left out of" in out
    flags = ["--raw", raw, "--preprocessed", preprocessed, "--workers", "1", "--no-progress"]
    assert main_plan_and_preprocess(["-d", "LUMIR", "--budget", "cpu", *flags]) == 0


def test_a_learn2reg_data_set_among_the_raw_data_is_left_alone(tmp_path, monkeypatch, capsys):
    shape = (12, 10, 11)
    monkeypatch.setattr(nlst, "EXPECTED", replace(nlst.EXPECTED, shape_xyz=shape))
    raw = tmp_path / "raw"
    scan, mask = one_image(tmp_path, shape), one_image(tmp_path, shape, [1])
    nlst_tree(raw / "NLST", scan, mask)
    assert main(["nlst", str(raw / "NLST"), "--raw", str(raw)]) == 0
    assert "nothing to convert" in capsys.readouterr().out
    assert [path.name for path in raw.iterdir()] == ["NLST"]
    (raw / "NLST/masksTr/NLST_0001_0000.nii.gz").unlink()
    assert main(["nlst", str(raw / "NLST"), "--raw", str(raw)]) == 2


def test_bad_input_is_one_message_and_status_2(scans, tmp_path, capsys):
    raw = ["--raw", str(tmp_path / "raw")]
    assert main(["lumir", str(scans), *raw]) == 2
    assert main(["oasis", str(tmp_path / "nowhere"), *raw]) == 2
    (tmp_path / "a.zip").write_bytes(b"PK")
    assert main(["nlst", str(tmp_path / "a.zip"), *raw]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert error.count("error: ") == 3
    assert not (tmp_path / "raw").exists()


def test_unknown_names_are_refused(scans):
    with pytest.raises(UsageError, match='did you mean "lumir"'):
        plan("lumirr", scans, Options())
    with pytest.raises(UsageError, match="folder has no variants"):
        plan("folder", scans, Options(variant="cropped"))
    with pytest.raises(UsageError, match="oasis has the variants aligned, cropped"):
        plan("oasis", scans, Options(variant="croped"))


def test_a_native_data_set_among_the_raw_data_is_left_alone(tmp_path, capsys):
    raw = tmp_path / "raw"
    native(raw / "Dataset001_Brains")
    assert main(["folder", str(raw / "Dataset001_Brains"), "--raw", str(raw)]) == 0
    assert "nothing to convert" in capsys.readouterr().out


def test_variants_have_names_of_their_own(tmp_path):
    names = [plan("oasis", tmp_path, Options(variant=v)).name for v in ("", "aligned", "cropped")]
    assert names == ["OASIS", "OASIS", "OASIS_cropped"]


def test_an_empty_path_is_not_the_current_folder(capsys):
    with pytest.raises(SystemExit):
        main(["folder", ""])
    assert "an empty path" in capsys.readouterr().err
