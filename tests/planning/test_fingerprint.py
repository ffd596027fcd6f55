from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from raw_datasets import native, write_array, write_json
from scipy import ndimage

from autoreg.errors import DataError
from autoreg.fingerprint import Fingerprint
from autoreg.io.dataset import Pair, read_dataset
from autoreg.io.records import dump_json, from_plain, load_json, save_record
from autoreg.planning.fingerprint import compute_fingerprint, is_ct, sample_pairs

SHAPE = (40, 44, 36)
CENTRE = np.array([20.0, 21.0, 18.0])


def head(shift=(0.0, 0.0, 0.0), displace=None):
    """A textured ellipsoid (d, h, w), float32; `displace` (3, D, H, W) is a pull-back in voxels."""
    grid = np.indices(SHAPE).astype(float)
    texture = ndimage.gaussian_filter(np.random.default_rng(3).standard_normal(SHAPE), 2)
    inside = sum(((g - c) / r) ** 2 for g, c, r in zip(grid, CENTRE, (13, 15, 11), strict=True)) < 1
    image = np.where(inside, 100 + 300 * texture, 0)
    points = grid - np.reshape(shift, (3, 1, 1, 1)) + (0 if displace is None else displace)
    return ndimage.map_coordinates(image, points, order=1).astype(np.float32)


def bulge(length):
    """A smooth displacement (3, D, H, W) in voxels of that length in most of the head's middle."""
    distance = (np.indices(SHAPE) - np.reshape(CENTRE, (3, 1, 1, 1))) / 10
    profile = np.exp(-((distance**2).sum(0) ** 2))
    return length * np.stack([profile, np.zeros(SHAPE), np.zeros(SHAPE)])


def two_heads(folder, other, spacing=(3.0, 3.0, 3.0), origin=(0.0, 0.0, 0.0)):
    write_array(folder / "imagesTr" / "a_0000.nii.gz", head(), spacing)
    write_array(folder / "imagesTr" / "b_0000.nii.gz", other, spacing, origin)
    return folder


def fingerprint_of(folder):
    return compute_fingerprint(read_dataset(folder), workers=1)


def pair_of(fingerprint, fixed="a", moving="b"):
    (pair,) = (p for p in fingerprint.pairs if (p.fixed, p.moving) == (fixed, moving))
    return pair


def test_a_case_is_measured_in_its_own_geometry(tmp_path):
    array = np.full((20, 30, 40), 10.0, np.float32)
    array[4:12, 5:25, 8:38] = np.linspace(100, 200, 8 * 20 * 30).reshape(8, 20, 30)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.0, 2.0, 3.0))  # x, y, z = w, h, d
    image.SetOrigin((5.0, 6.0, 7.0))
    image.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, 1))
    (tmp_path / "imagesTr").mkdir()
    for name in "ab":
        sitk.WriteImage(image, str(tmp_path / "imagesTr" / f"{name}_0000.nii.gz"))
    write_array(tmp_path / "labelsTr" / "a.nii.gz", np.ones((20, 30, 40), np.uint8))
    case = fingerprint_of(tmp_path).cases[0]
    assert (case.case, case.shape, case.orientation) == ("a", (20, 30, 40), "SAL")
    np.testing.assert_allclose(case.spacing_mm, (3, 2, 1))
    assert case.foreground_box == ((4, 11), (5, 24), (8, 37))
    np.testing.assert_allclose(case.foreground_extent_mm, (30, 40, 24), rtol=1e-6)
    np.testing.assert_allclose(case.foreground_centre_mm, (5 + 22.5, 6 - 29, 7 + 22.5), rtol=1e-6)
    np.testing.assert_allclose(case.box_centre_mm, (5 + 19.5, 6 - 29, 7 + 28.5), rtol=1e-6)
    (statistics,) = case.intensity
    assert (statistics.minimum, statistics.maximum) == (10, 200)
    np.testing.assert_allclose(statistics.foreground_mean, 150, rtol=1e-4)
    np.testing.assert_allclose(statistics.quantile_50, 150, rtol=1e-4)
    np.testing.assert_allclose(statistics.quantile_995, 199.5, rtol=1e-3)
    assert (case.has_labels, case.has_mask, case.has_landmarks) == (True, False, False)


def test_the_box_of_a_long_image_is_found_to_a_voxel(tmp_path):
    """Longer than what the foreground is searched on voxel by voxel."""
    array = np.zeros((150, 6, 5), np.float32)
    array[20:100, 1:5, 1:4] = 50
    for name in "ab":
        write_array(tmp_path / "imagesTr" / f"{name}_0000.nii.gz", array)
    case = fingerprint_of(tmp_path).cases[0]
    assert case.foreground_box == ((20, 99), (1, 4), (1, 3))
    np.testing.assert_allclose(case.foreground_extent_mm, (3, 4, 80))


def test_every_channel_has_statistics(tmp_path):
    native(tmp_path, cases="ab", channels=2, description={"modality": {"0": "T1", "1": "T2"}})
    fingerprint = fingerprint_of(tmp_path)
    assert fingerprint.fixed_modalities == ("T1", "T2")
    assert all(len(case.intensity) == 2 for case in fingerprint.cases)


def test_an_offset_of_the_world_is_told_apart_from_deformation(tmp_path):
    """The same head 60 mm away: all displacement is gone once the centres are aligned."""
    pair = pair_of(fingerprint_of(two_heads(tmp_path, head(), origin=(0.0, 60.0, 0.0))))
    assert pair.centre_distance_mm == pytest.approx(60, abs=0.1)
    assert pair.world_displacement_mm == pytest.approx(60, abs=1)
    assert pair.displacement_mm < 1
    assert pair.centred_correlation > 0.99
    assert pair.world_correlation < 0.3
    assert pair.box_overlap == pytest.approx(1 - 60 / 87, abs=0.05)


@pytest.mark.parametrize("length_mm", [6.0, 12.0])
def test_the_coarse_registration_finds_the_order_of_magnitude(tmp_path, length_mm):
    other = head(displace=bulge(length_mm / 3))
    pair = pair_of(fingerprint_of(two_heads(tmp_path, other)))
    assert pair.displacement_source == "demons"
    assert 0.5 * length_mm < pair.world_displacement_mm < 1.2 * length_mm
    assert pair.world_correlation > 0.5


@pytest.mark.parametrize(("length_mm", "low", "high"), [(0.0, 0, 5), (12.0, 7, 14)])
def test_inverted_contrast_does_not_mislead_it(tmp_path, length_mm, low, high):
    other = head(displace=bulge(length_mm / 3))
    other = np.where(other > 0, 250 - other, 0).astype(np.float32)
    two_heads(tmp_path, other)
    write_json(tmp_path / "dataset.json", {"modality": {"0": "T1"}, "case_modality": {"b": "T2"}})
    pair = pair_of(fingerprint_of(tmp_path))
    assert low < pair.world_displacement_mm < high


def test_landmarks_win_over_registration(tmp_path):
    two_heads(tmp_path, head())
    points = np.random.default_rng(0).uniform(20, 90, (10, 3))
    for name, moved in (("a", points), ("b", points + np.array([3, 4, 0]))):
        rows = "\n".join(",".join(map(str, point)) for point in moved)
        (tmp_path / "landmarksTr").mkdir(exist_ok=True)
        (tmp_path / "landmarksTr" / f"{name}.csv").write_text(f"x,y,z\n{rows}\n")
    pair = pair_of(fingerprint_of(tmp_path))
    assert pair.displacement_source == "landmarks"
    assert pair.world_displacement_mm == pytest.approx(5)


def test_centroids_of_labels_are_second_best(tmp_path):
    two_heads(tmp_path, head())
    for name, shift in (("a", 0), ("b", 2)):
        labels = np.zeros(SHAPE, np.uint8)
        for value in range(1, 6):
            labels[4 * value : 4 * value + 3, 10 + shift : 20 + shift, 5:9] = value
        write_array(tmp_path / "labelsTr" / f"{name}.nii.gz", labels, (3.0, 3.0, 3.0))
    fingerprint = fingerprint_of(tmp_path)
    pair = pair_of(fingerprint)
    assert pair.displacement_source == "labels"
    assert pair.world_displacement_mm == pytest.approx(6)
    assert fingerprint.labels == {f"label_{value}": value for value in range(1, 6)}


def test_listed_labels_are_kept(tmp_path):
    native(tmp_path, cases="ab", description={"labels": {"ball": 7}})
    assert fingerprint_of(tmp_path).labels == {"ball": 7}


def test_processes_find_the_same_and_it_survives_its_file(tmp_path):
    folder = two_heads(tmp_path / "data", head(displace=bulge(2.0)))
    fingerprint = fingerprint_of(folder)
    assert compute_fingerprint(read_dataset(folder), workers=2) == fingerprint
    save_record(fingerprint, tmp_path / "f.json")
    data = load_json(tmp_path / "f.json")
    assert from_plain(Fingerprint, data, "f.json") == fingerprint
    assert "NaN" not in dump_json(fingerprint)


def test_an_image_with_nan_is_refused_by_case(tmp_path):
    native(tmp_path)
    array = np.ones((12, 10, 8), np.float32)
    array[0, 0, 0] = np.nan
    write_array(tmp_path / "imagesTr" / "b_0000.nii.gz", array)
    with pytest.raises(DataError, match=r'case "b".*NaN'):
        fingerprint_of(tmp_path)


def test_pairs_are_sampled_without_repetition_and_the_same_each_time(tmp_path):
    native(tmp_path, cases=[f"c{number}" for number in range(6)])
    dataset = read_dataset(tmp_path)
    pairs = sample_pairs(dataset, 12, seed=0)
    assert len(set(pairs)) == 12
    assert all(pair.fixed != pair.moving for pair in pairs)
    assert pairs == sample_pairs(dataset, 12, seed=0) != sample_pairs(dataset, 12, seed=1)
    every = sample_pairs(dataset, 1000, seed=0)
    assert len(every) == 30 == dataset.training_pair_count
    listed = replace(dataset, training_pairs=(Pair("c1", "c0"), Pair("c2", "c0")))
    assert sample_pairs(listed, 12, seed=0) == listed.training_pairs


def test_names_of_ct():
    assert all(map(is_ct, ("CT", "ct", "CBCT", "FBCT", " CT ")))
    assert not any(map(is_ct, ("MR", "T1w", "SPECT", "PET/CT", "OCT", "image")))
