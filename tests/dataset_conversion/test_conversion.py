"""The common part: records, checks and the writer."""

import gzip
import os
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from published_brains import content_of
from raw_datasets import blob, write_array

from autoreg.dataset_conversion.checks import (
    archive_problem,
    find_root,
    grid_problems,
    incomplete,
    off_grid_problems,
    require_source,
)
from autoreg.dataset_conversion.conversion import (
    Conversion,
    ConvertedCase,
    Made,
    checked,
    consecutive_pairs,
    ordered_pairs,
    unordered_pairs,
)
from autoreg.dataset_conversion.cropping import crop_image
from autoreg.dataset_conversion.writer import Target, write_conversion
from autoreg.errors import DataError, UsageError
from autoreg.io.cases import Pair
from autoreg.io.dataset import read_dataset
from autoreg.io.images import read_image
from autoreg.io.problems import Problem


@pytest.fixture
def source(tmp_path):
    for name in "abc":
        write_array(tmp_path / "source" / f"{name}.nii.gz", blob(seed=ord(name)))
    return tmp_path / "source"


def planned(source, names="abc", made=(), **changes):
    """Cases of the source's images; those in `made` lose a border."""

    def image(name):
        path = source / f"{name}.nii.gz"
        crop = {"crop_xyz": [[1, 0], [0, 0], [0, 2]]}
        return Made(crop_image, (path,), ".nii.gz", crop) if name in made else path

    cases = tuple(ConvertedCase(name, (image(name),)) for name in names)
    return Conversion("Letters", source, cases=cases, **changes)


def test_links_are_read_as_a_data_set_and_sources_stay_untouched(source, tmp_path):
    (source / "a.nii.gz").chmod(0o440)
    conversion = planned(source, validation_pairs=(Pair("a", "b"),), modality=("T1",))
    written = write_conversion(conversion, Target(tmp_path / "raw"))
    assert written.folder == tmp_path / "raw/Dataset001_Letters"
    assert (written.kept, written.written, written.removed) == (0, 3, 0)
    link = written.folder / "imagesTr/a_0000.nii.gz"
    assert link.is_symlink()
    assert link.resolve() == (source / "a.nii.gz").resolve()
    assert (source / "a.nii.gz").stat().st_mode & 0o777 == 0o440
    dataset = read_dataset(written.folder)
    assert [case.name for case in dataset.training] == ["a", "b", "c"]
    assert dataset.validation_pairs == (Pair("a", "b"),)
    assert dataset.training[0].modalities == ("T1",)


def test_copies_stand_on_their_own(source, tmp_path):
    written = write_conversion(planned(source), Target(tmp_path / "raw", copy=True))
    copy = written.folder / "imagesTr/a_0000.nii.gz"
    assert not copy.is_symlink()
    assert copy.read_bytes() == (source / "a.nii.gz").read_bytes()
    again = write_conversion(planned(source), Target(tmp_path / "raw", copy=True))
    assert (again.kept, again.written) == (3, 0)
    linked = write_conversion(planned(source), Target(tmp_path / "raw"))
    assert linked.written == 3
    assert copy.is_symlink()


def test_what_is_right_is_kept_and_what_changed_is_made_anew(source, tmp_path):
    target = Target(tmp_path / "raw", workers=1)
    folder = write_conversion(planned(source, made="ab"), target).folder
    made = folder / "imagesTr/a_0000.nii.gz"
    assert read_image([made], "intensity").geometry.shape == (10, 10, 7)
    before = made.stat().st_mtime_ns
    again = write_conversion(planned(source, made="ab"), target)
    assert (again.kept, again.written, made.stat().st_mtime_ns) == (3, 0, before)
    write_array(source / "a.nii.gz", blob(seed=99))
    changed = write_conversion(planned(source, made="ab"), target)
    assert (changed.kept, changed.written) == (2, 1)
    assert made.stat().st_mtime_ns > before


def test_an_interrupted_conversion_is_hidden_and_taken_up_again(source, tmp_path):
    raw = tmp_path / "raw"
    # One that was killed before it had written anything whole.
    (raw / ".converting_Dataset001_Letters").mkdir(parents=True)
    (raw / ".converting_Dataset001_Letters" / ".partial_x").write_text("{")
    good = (source / "b.nii.gz").read_bytes()
    (source / "b.nii.gz").write_bytes(b"no image")
    with pytest.raises(DataError, match=r'case "imagesTr/b_0000.nii.gz"'):
        write_conversion(planned(source, made="abc"), Target(raw, workers=1))
    assert [path.name for path in raw.iterdir()] == [".converting_Dataset001_Letters"]
    done = raw / ".converting_Dataset001_Letters/imagesTr/a_0000.nii.gz"
    before = done.stat().st_mtime_ns
    (source / "b.nii.gz").write_bytes(good)
    written = write_conversion(planned(source, made="abc"), Target(raw, workers=1))
    assert (written.kept, written.written) == (1, 2)
    assert [path.name for path in raw.iterdir()] == ["Dataset001_Letters"]
    assert (raw / "Dataset001_Letters/imagesTr/a_0000.nii.gz").stat().st_mtime_ns == before


def test_files_without_a_place_are_removed_and_foreign_ones_refused(source, tmp_path):
    target = Target(tmp_path / "raw")
    folder = write_conversion(planned(source), target).folder
    written = write_conversion(planned(source, "ab"), target)
    assert (written.kept, written.written, written.removed) == (2, 0, 1)
    assert not (folder / "imagesTr/c_0000.nii.gz").is_symlink()
    assert content_of(folder)["numTraining"] == 2
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds 1 files that the conversion does not write"):
        write_conversion(planned(source), target)


def test_an_edited_description_is_kept_unless_the_conversion_changes(source, tmp_path):
    target = Target(tmp_path / "raw")
    file = write_conversion(planned(source), target).folder / "dataset.json"
    file.write_text('{"numTraining": 3, "labels": {"ball": 1}}')
    write_conversion(planned(source), target)
    assert "ball" in file.read_text()
    with pytest.raises(UsageError, match="was changed since it was written"):
        write_conversion(planned(source, "ab"), target)


class TestChangedByHand:
    """Files of a data set that somebody corrected after they were copied or computed."""

    def test_a_corrected_copy_is_kept_and_told(self, source, tmp_path):
        target = Target(tmp_path / "raw", copy=True)
        folder = write_conversion(planned(source, "ab"), target).folder
        mine = folder / "imagesTr/a_0000.nii.gz"
        write_array(mine, blob(seed=99))
        corrected = mine.read_bytes()
        same = write_conversion(planned(source, "ab"), target)
        assert (same.written, same.changed) == (0, ("imagesTr/a_0000.nii.gz",))
        more = write_conversion(planned(source, "abc"), target)  # a further download
        assert (more.kept, more.written) == (2, 1)
        assert more.changed == ("imagesTr/a_0000.nii.gz",)
        assert mine.read_bytes() == corrected
        again = write_conversion(planned(source, "abc"), target)
        assert again.changed == ("imagesTr/a_0000.nii.gz",)

    @pytest.mark.parametrize("why", ["source changed", "links wanted", "no place"])
    def test_it_is_never_overwritten_or_removed(self, source, tmp_path, why):
        target = Target(tmp_path / "raw", copy=True)
        folder = write_conversion(planned(source), target).folder
        mine = folder / "imagesTr/a_0000.nii.gz"
        write_array(mine, blob(seed=99))
        corrected = mine.read_bytes()
        if why == "source changed":
            write_array(source / "a.nii.gz", blob(seed=5))
        names = "bc" if why == "no place" else "abc"
        other = Target(tmp_path / "raw", copy=why != "links wanted")
        with pytest.raises(UsageError, match=r"a_0000\.nii\.gz: changed since"):
            write_conversion(planned(source, names), other)
        assert mine.read_bytes() == corrected
        mine.unlink()  # as the message says
        assert not write_conversion(planned(source, names), other).changed

    def test_a_corrected_computed_file_is_not_overwritten_either(self, source, tmp_path):
        target = Target(tmp_path / "raw", workers=1)
        folder = write_conversion(planned(source, made="a"), target).folder
        mine = folder / "imagesTr/a_0000.nii.gz"
        write_array(mine, blob(seed=99))
        corrected = mine.read_bytes()
        same = write_conversion(planned(source, made="a"), target)
        assert same.changed == ("imagesTr/a_0000.nii.gz",)
        write_array(source / "a.nii.gz", blob(seed=5))
        with pytest.raises(UsageError, match="changed since it was written"):
            write_conversion(planned(source, made="a"), target)
        assert mine.read_bytes() == corrected

    def test_a_changed_source_is_copied_anew(self, source, tmp_path):
        target = Target(tmp_path / "raw", copy=True)
        folder = write_conversion(planned(source), target).folder
        write_array(source / "a.nii.gz", blob(seed=5))
        written = write_conversion(planned(source), target)
        assert (written.kept, written.written, written.changed) == (2, 1, ())
        copy = folder / "imagesTr/a_0000.nii.gz"
        assert copy.read_bytes() == (source / "a.nii.gz").read_bytes()


class TestUpdateThatFails:
    """A finished data set stays under its name, as it is, until the new one is complete."""

    def fails(self, source, tmp_path, copy=False):
        """An update of a, b to a, b, c that fails at c; the folder and what it held before."""
        target = Target(tmp_path / "raw", copy=copy, workers=1)
        folder = write_conversion(planned(source, "ab", made="a"), target).folder
        good = (source / "c.nii.gz").read_bytes()
        (source / "c.nii.gz").write_bytes(b"no image")
        before = {p: p.lstat().st_mtime_ns for p in folder.rglob("*") if not p.is_dir()}
        wider = planned(source, "abc", made="ac")
        with pytest.raises(DataError, match=r"c_0000\.nii\.gz"):
            write_conversion(wider, target)
        (source / "c.nii.gz").write_bytes(good)
        return target, wider, folder, before

    @pytest.mark.parametrize("copy", [False, True])
    def test_the_finished_one_stays_and_the_next_run_completes(self, source, tmp_path, copy):
        target, wider, folder, before = self.fails(source, tmp_path, copy)
        after = {p: p.lstat().st_mtime_ns for p in folder.rglob("*") if not p.is_dir()}
        assert after == before
        written = write_conversion(wider, target)
        assert (written.folder, written.kept, written.written) == (folder, 2, 1)
        assert [case.name for case in read_dataset(folder).training] == ["a", "b", "c"]
        assert [p.name for p in folder.parent.iterdir()] == [folder.name]
        made = folder / "imagesTr/a_0000.nii.gz"
        assert made.stat().st_mtime_ns == before[made]
        again = write_conversion(wider, target)
        assert (again.kept, again.written, again.changed) == (3, 0, ())

    def test_a_process_killed_between_the_two_renamings_loses_nothing(
        self, source, tmp_path, monkeypatch
    ):
        target = Target(tmp_path / "raw", copy=True)
        folder = write_conversion(planned(source, "ab"), target).folder
        write_array(folder / "imagesTr/a_0000.nii.gz", blob(seed=99))
        corrected = (folder / "imagesTr/a_0000.nii.gz").read_bytes()
        genuine = Path.replace

        def dying(self, place):
            if self.name.startswith(".converting_"):
                raise KeyboardInterrupt
            return genuine(self, place)

        monkeypatch.setattr(Path, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            write_conversion(planned(source), target)
        monkeypatch.setattr(Path, "replace", genuine)
        written = write_conversion(planned(source), target)
        assert (written.folder, written.written) == (folder, 0)
        assert written.changed == ("imagesTr/a_0000.nii.gz",)
        assert (folder / "imagesTr/a_0000.nii.gz").read_bytes() == corrected
        assert [p.name for p in folder.parent.iterdir()] == [folder.name]

    def test_where_there_are_no_hard_links_files_are_copied(self, source, tmp_path, monkeypatch):
        def refusing(*_, **__):
            raise PermissionError("no hard links here")

        monkeypatch.setattr(os, "link", refusing)
        target = Target(tmp_path / "raw", workers=1)
        folder = write_conversion(planned(source, "ab", made="a"), target).folder
        written = write_conversion(planned(source, made="a"), target)
        assert (written.kept, written.written, written.changed) == (2, 1, ())
        assert (folder / "imagesTr/b_0000.nii.gz").is_symlink()

    def test_a_data_set_that_was_moved_and_linked_is_updated_where_it_lies(self, source, tmp_path):
        target = Target(tmp_path / "raw")
        folder = write_conversion(planned(source, "ab"), target).folder
        (tmp_path / "disk").mkdir()
        folder.rename(tmp_path / "disk" / "letters")
        folder.symlink_to(tmp_path / "disk" / "letters")
        written = write_conversion(planned(source), target)
        assert (written.folder, written.kept, written.written) == (folder, 2, 1)
        assert folder.is_symlink()
        assert len(read_dataset(tmp_path / "disk" / "letters").training) == 3


def test_problems_are_told_at_once_and_nothing_is_written(source, tmp_path):
    problem = Problem("x", "nothing", "something", "buy it")
    missing = Problem("y", "a gap", "none", "fill it")
    both = planned(source, problems=(problem,), missing=(missing,))
    with pytest.raises(DataError, match=r"2 problems[\s\S]*buy it[\s\S]*fill it"):
        write_conversion(both, Target(tmp_path / "raw"))
    assert not (tmp_path / "raw").exists()
    part = planned(source, missing=(missing,))
    with pytest.raises(DataError, match="--partial"):
        write_conversion(part, Target(tmp_path / "raw"))
    with pytest.raises(DataError, match="1 problem"):
        write_conversion(both, Target(tmp_path / "raw", partial=True))
    assert write_conversion(part, Target(tmp_path / "raw", partial=True)).written == 3


def test_cases_that_collide_are_refused(source):
    one = ConvertedCase("Anna", (source / "a.nii.gz",))
    other = ConvertedCase("anna", (source / "b.nii.gz",))
    problems = checked(Conversion("Letters", source, cases=(one, other))).problems
    assert [problem.file for problem in problems] == [str(source / "b.nii.gz")]
    assert "beside" in problems[0].found
    twice = ConvertedCase("c", (source / "c.nii.gz",))
    again = ConvertedCase("c", (source / "c.nii.gz",), split="test")
    assert checked(Conversion("Letters", source, cases=(twice, again))).problems


def test_pairs_of_absent_cases_are_left_out(source):
    pairs = (Pair("a", "b"), Pair("a", "z"))
    kept = checked(planned(source, validation_pairs=pairs, test_pairs=()))
    assert kept.validation_pairs == (Pair("a", "b"),)
    assert kept.test_pairs == ()
    assert kept.training_pairs is None


def test_numbers_and_names_of_data_sets(source, tmp_path):
    raw = tmp_path / "raw"
    (raw / "Dataset001_Other").mkdir(parents=True)
    first = write_conversion(planned(source), Target(raw)).folder
    assert first.name == "Dataset002_Letters"
    assert write_conversion(planned(source), Target(raw)).folder == first
    named = write_conversion(planned(source), Target(raw, number=7, name="Again")).folder
    assert named.name == "Dataset007_Again"
    with pytest.raises(UsageError, match="Dataset001_Other already"):
        write_conversion(planned(source), Target(raw, number=1))
    with pytest.raises(UsageError, match="no / "):
        write_conversion(planned(source), Target(raw, name="a/b"))
    (raw / "Dataset009_Theirs").mkdir()
    with pytest.raises(UsageError, match="was not written by autoreg_convert_dataset"):
        write_conversion(planned(source), Target(raw, number=9, name="Theirs"))
    with pytest.raises(UsageError, match="lies inside the source"):
        write_conversion(planned(source), Target(source / "raw"))


def test_another_source_does_not_replace_a_data_set(source, tmp_path):
    target = Target(tmp_path / "raw")
    folder = write_conversion(planned(source), target).folder
    for name in "abc":
        write_array(tmp_path / f"other/{name}.nii.gz", blob(seed=7))
    with pytest.raises(UsageError, match="was made from"):
        write_conversion(planned(tmp_path / "other"), target)
    source.rename(tmp_path / "moved")
    written = write_conversion(planned(tmp_path / "moved"), target)
    assert (written.folder, written.written) == (folder, 3)
    renamed = replace(planned(tmp_path / "moved"), name="Digits")
    with pytest.raises(UsageError, match="holds a conversion of Letters"):
        write_conversion(renamed, Target(tmp_path / "raw", name="Letters"))


def test_pairs_by_rule():
    assert set(ordered_pairs("abc")) == {Pair(a, b) for a in "abc" for b in "abc" if a != b}
    assert unordered_pairs("abc") == (Pair("a", "b"), Pair("a", "c"), Pair("b", "c"))
    assert consecutive_pairs("abc", fixed="first") == (Pair("a", "b"), Pair("b", "c"))
    assert consecutive_pairs("abc", fixed="second") == (Pair("b", "a"), Pair("c", "b"))


def test_a_download_that_stopped_half_way_is_noticed(tmp_path):
    write_array(tmp_path / "whole.nii.gz", blob((30, 20, 10)))
    content = (tmp_path / "whole.nii.gz").read_bytes()
    assert incomplete(tmp_path / "whole.nii.gz") is None
    cut = tmp_path / "cut.nii.gz"
    for length in (len(content) - 1, len(content) // 2, 40):
        cut.write_bytes(content[:length])
        assert incomplete(cut) is not None
    cut.write_bytes(b"")
    assert incomplete(cut) == "an empty file"
    assert incomplete(tmp_path / "absent.nii.gz") == "no such file"
    shorter = gzip.compress(gzip.decompress(content)[:-100])  # a sound archive of half an image
    cut.write_bytes(shorter)
    assert "cut off" in (incomplete(cut) or "")


def test_gzip_in_several_members_and_with_a_tail_is_whole(tmp_path):
    write_array(tmp_path / "one.nii.gz", blob((30, 20, 10)))
    plain = gzip.decompress((tmp_path / "one.nii.gz").read_bytes())
    several = tmp_path / "several.nii.gz"
    several.write_bytes(gzip.compress(plain[:1000]) + gzip.compress(plain[1000:]))
    assert incomplete(several) is None
    several.write_bytes(gzip.compress(plain + bytes(7)))
    assert incomplete(several) is None


def test_archives_are_told_apart_from_cut_off_ones(tmp_path):
    inside = tmp_path / "x"
    inside.write_bytes(os.urandom(20000))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(inside, "x")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(inside, "x")
    for name, command in (("a.zip", "unzip a.zip"), ("a.tar", "tar xf a.tar")):
        path = tmp_path / name
        assert command in archive_problem(path).remedy
        with pytest.raises(DataError, match=command):
            require_source(path)
        path.write_bytes(path.read_bytes()[:10000])
        assert "cut off" in archive_problem(path).found
    with pytest.raises(DataError, match="no such folder"):
        require_source(tmp_path / "nowhere")


def test_roots_shapes_and_grids(tmp_path):
    write_array(tmp_path / "a/b/data/x.nii.gz", blob((6, 5, 4)))
    write_array(tmp_path / "moved.nii.gz", blob((6, 5, 4)), origin=(1, 0, 0))
    assert find_root(tmp_path, lambda p: (p / "data").is_dir()) == tmp_path / "a/b"
    assert find_root(tmp_path, lambda p: (p / "none").is_dir()) is None
    image = tmp_path / "a/b/data/x.nii.gz"
    assert not grid_problems([image], (4, 5, 6), "this edition")
    (problem,) = grid_problems([image], (6, 5, 4), "this edition")
    assert problem.found == "4 x 5 x 6 voxels"
    assert "another edition" in problem.remedy
    assert not off_grid_problems([(image, image)])
    assert off_grid_problems([(image, tmp_path / "moved.nii.gz")])
