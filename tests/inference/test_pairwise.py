"""Registration of two images in memory against known deformations."""

import numpy as np
import pytest
import SimpleITK as sitk
from pair_phantom import displacement_mm, inner_points, pair

from autoreg.errors import DataError, PlanError
from autoreg.geometry.grid import Geometry
from autoreg.geometry.volume import Volume
from autoreg.inference.pairwise import PairOptions, register_pair

VOXEL_MM = {2: 1.0, 3: 2.0}


def error_mm(result, dimension):
    points = inner_points(dimension=dimension)
    found = result.transform.map_points(points) - points
    return np.linalg.norm(found - displacement_mm(points), axis=1)


@pytest.fixture(scope="module", params=[2, 3])
def registered(request):
    return request.param, register_pair(*pair(request.param), device="cpu")


def test_a_known_deformation_is_found_to_a_fraction_of_a_voxel(registered):
    dimension, result = registered
    before = np.linalg.norm(displacement_mm(inner_points(dimension=dimension)), axis=1).mean()
    error = error_mm(result, dimension).mean()
    assert before > 1.2 * VOXEL_MM[dimension]
    assert error < 0.3 * VOXEL_MM[dimension]


def test_both_directions_compose_to_the_identity(registered):
    dimension, result = registered
    points = inner_points(dimension=dimension)
    there = result.inverse.map_points(result.transform.map_points(points))
    back = result.transform.map_points(result.inverse.map_points(points))
    for ends in (there, back):
        gap = np.linalg.norm(ends - points, axis=1).mean() / VOXEL_MM[dimension]
        assert gap < 0.05


def test_nothing_leaves_the_plane_of_a_two_dimensional_image():
    result = register_pair(*pair(2), device="cpu")
    assert not result.field.forward.u_vox[0].any()
    assert not result.field.backward.u_vox[0].any()
    points = inner_points(dimension=2)
    assert np.abs(result.transform.map_points(points)[:, 2]).max() < 1e-9


def test_the_warped_image_agrees_with_the_fixed_one(registered):
    dimension, result = registered
    fixed = sitk.GetArrayFromImage(pair(dimension)[0]).ravel()
    warped = result.warped.single.ravel()
    inside = fixed > 100
    assert np.corrcoef(fixed[inside], warped[inside])[0, 1] > 0.97
    assert result.registered.correlation > result.aligned.correlation


@pytest.mark.parametrize("contrast", [lambda v: 1000 - v, lambda v: np.abs(v - 500)])
def test_another_contrast_is_noticed(contrast):
    images = pair(2, contrast)
    result = register_pair(*images, PairOptions(align="none"), device="cpu")
    assert result.plan.similarity == "mind"
    assert "the contrasts differ" in result.similarity_reason
    asked = PairOptions(similarity="lncc", align="none")
    assert (
        "look like different contrasts" in register_pair(*images, asked, device="cpu").warnings[0]
    )


def test_one_contrast_is_registered_with_lncc(registered):
    _, result = registered
    assert result.plan.similarity == "lncc"
    assert not result.warnings


def test_a_mask_decides_where_the_images_count():
    fixed, moving = pair(2)
    array = sitk.GetArrayFromImage(fixed)
    # Beyond the mask the fixed image shows something else, which must not count.
    array[:, 50:] = array[:, 50:][::-1]
    wrong = sitk.GetImageFromArray(array)
    wrong.CopyInformation(fixed)
    mask = np.zeros(array.shape, dtype=np.uint8)
    mask[:, :46] = 1
    inside = sitk.GetImageFromArray(mask)
    inside.CopyInformation(fixed)
    points = inner_points(dimension=2)
    points = points[points[:, 0] < -4]

    def error(result):
        found = result.transform.map_points(points) - points
        return np.linalg.norm(found - displacement_mm(points), axis=1).mean()

    options = PairOptions(align="none")
    masked = register_pair(wrong, moving, options, fixed_mask=inside, device="cpu")
    assert error(masked) < 0.35


def test_unusable_images_are_named():
    fixed, moving = pair(2)
    constant = moving * 0
    with pytest.raises(DataError, match=r"f\.png: the image is constant"):
        register_pair(constant, moving, device="cpu", names=("f.png", "m.png"))
    array = sitk.GetArrayFromImage(moving)
    array[3, 4] = np.nan
    broken = sitk.GetImageFromArray(array)
    with pytest.raises(DataError, match=r"m\.png: 1 voxels are NaN"):
        register_pair(fixed, broken, device="cpu", names=("f.png", "m.png"))
    with pytest.raises(DataError, match="fixed image and moving image: "):
        register_pair(fixed, pair(3)[1], device="cpu")


def test_thin_images_are_refused():
    array = np.random.default_rng(0).random((3, 20, 20))
    thin = Volume.intensity(array, Geometry((3, 20, 20), np.eye(4)))
    with pytest.raises(DataError, match="at least 4 voxels along every axis"):
        register_pair(thin, thin, device="cpu")


def test_an_unknown_preset_is_refused():
    with pytest.raises(PlanError, match='preset "blanced": unknown; did you mean "balanced"'):
        PairOptions(preset="blanced")
