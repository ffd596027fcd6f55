"""Folders: flag > environment > ./autoreg_data."""

from pathlib import Path

import pytest

from autoreg.paths import ENVIRONMENT, resolve_paths


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch):
    for name in ENVIRONMENT.values():
        monkeypatch.delenv(name, raising=False)


def test_nothing_needs_to_be_set():
    paths = resolve_paths()
    assert paths.raw == Path("autoreg_data/raw")
    assert paths.preprocessed == Path("autoreg_data/preprocessed")
    assert paths.results == Path("autoreg_data/results")


def test_environment_beats_default_and_flag_beats_environment(monkeypatch):
    monkeypatch.setenv("autoreg_raw", "/data/raw")
    monkeypatch.setenv("autoreg_results", "~/results")
    monkeypatch.setenv("autoreg_preprocessed", "")
    paths = resolve_paths(raw=Path("here"))
    assert paths.raw == Path("here")
    assert paths.preprocessed == Path("autoreg_data/preprocessed")
    assert paths.results == Path.home() / "results"
    assert resolve_paths().raw == Path("/data/raw")
