"""LPBA40, Lung250M-4B and IXI through the command: what it writes passes verification."""

import published_ixi
import published_lpba40
import published_lung250m_4b
import pytest

from autoreg.dataset_conversion import ixi, lpba40
from autoreg.dataset_conversion.cli import main
from autoreg.planning.verification import verify


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The published sizes, scaled down."""
    monkeypatch.setattr(lpba40, "SHAPE_XYZ", published_lpba40.SHAPE)
    monkeypatch.setattr(lpba40, "CROP_XYZ", published_lpba40.CROP)
    monkeypatch.setattr(lpba40, "SUBJECTS", ("S01", "S02", "S14", "S16", "S11", "S12"))
    monkeypatch.setattr(ixi, "SHAPE_XYZ", published_ixi.SHAPE)
    monkeypatch.setattr(ixi, "COUNTS", published_ixi.COUNTS)


def publish_lpba40(source):
    for seed, subject in enumerate(lpba40.SUBJECTS):
        published_lpba40.write_subject(source, subject, seed)


def publish_lung(source):
    for number in (12, 13, 54, 104):
        published_lung250m_4b.write_case(source, number)
    published_lung250m_4b.write_landmarks(source, published_lung250m_4b.landmark_tables((54, 104)))


PUBLISHERS = {
    "lpba40": publish_lpba40,
    "lung250m_4b": publish_lung,
    "ixi": published_ixi.publish,
}


def run(dataset, source, raw, *flags):
    arguments = [dataset, str(source), "--raw", str(raw), "--workers", "1", *flags]
    return main(arguments)


@pytest.mark.parametrize("dataset", PUBLISHERS)
def test_what_is_written_passes_verification(dataset, tmp_path, capsys):
    PUBLISHERS[dataset](tmp_path / "source")
    assert run(dataset, tmp_path / "source", tmp_path / "raw", "--partial") == 0
    (folder,) = (tmp_path / "raw").iterdir()
    assert verify(folder, workers=1) == ()
    assert "next: autoreg_plan_and_preprocess" in capsys.readouterr().out


@pytest.mark.parametrize("dataset", PUBLISHERS)
def test_an_empty_source_ends_with_2_and_one_message(dataset, tmp_path, capsys):
    (tmp_path / "source").mkdir()
    assert run(dataset, tmp_path / "source", tmp_path / "raw") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "no images of" in error
    assert "get it from" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("dataset", "pattern"),
    [
        ("lpba40", "**/*.air"),
        ("lpba40", "**/*.native.tissue.img.gz"),
        ("lung250m_4b", "imagesTs/*.nii.gz"),
        ("lung250m_4b", "**/*.pth"),
        ("ixi", "Test/*.pkl"),
        ("ixi", "atlas.pkl"),
    ],
)
def test_half_downloaded_files_end_with_2(dataset, pattern, tmp_path, capsys):
    PUBLISHERS[dataset](tmp_path / "source")
    paths = list((tmp_path / "source").glob(pattern))
    assert paths
    for path in paths:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert run(dataset, tmp_path / "source", tmp_path / "raw", "--partial") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    for path in paths:
        assert path.name.removesuffix(".img.gz") in error
    assert not any((tmp_path / "raw").glob("Dataset*"))
