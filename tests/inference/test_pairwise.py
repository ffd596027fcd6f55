"""Registration of two images in memory against known deformations."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from pair_phantom import displacement_mm, inner_points, pair

from autoreg.errors import DataError, PlanError
from autoreg.geometry.grid import Geometry
from autoreg.geometry.transforms import Affine, Composite, DisplacementField
from autoreg.geometry.volume import Volume
from autoreg.inference.pair_checks import agreement_warnings
from autoreg.inference.pairwise import PairOptions, register_pair
from autoreg.inference.registered_pair import as_volume
from autoreg.registration import start
from autoreg.registration.contrast import Agreement
from autoreg.registration.field_presets import preset_plan

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


def test_bright_backgrounds_are_registered_as_dark_ones():
    fixed, moving = pair(2)
    moving = moving[:60, :]  # a part of the fixed image lies beyond the moving one
    dark = register_pair(fixed, moving, PairOptions(align="rigid"), device="cpu")
    result = register_pair(1000 - fixed, 1000 - moving, PairOptions(align="rigid"), device="cpu")
    assert result.plan.similarity == "lncc"
    points = inner_points(dimension=2)
    shared = points[result.pair.moving.geometry.contains(result.transform.map_points(points))]
    assert len(shared) > 100
    apart = result.transform.map_points(shared) - dark.transform.map_points(shared)
    assert np.linalg.norm(apart, axis=1).mean() < 0.1
    # Beyond the moving image lies its background, and not a black bar.
    assert result.pair.outside == pytest.approx((1000,), abs=0.1)
    assert dark.pair.outside == (0,)
    assert result.warped.single.max() == pytest.approx(1000, abs=1)


def stacked(first, second):
    """Two channels of a SimpleITK image."""
    return sitk.Compose(*(sitk.Cast(image, sitk.sitkFloat32) for image in (first, second)))


@pytest.mark.parametrize("dimension", [2, 3])
def test_a_channel_without_information_does_not_keep_the_others_from_being_registered(dimension):
    rng = np.random.default_rng(0)
    images = pair(dimension)
    both = []
    for image in images:
        noise = sitk.GetImageFromArray(rng.random(image.GetSize()[::-1]).astype(np.float32))
        noise.CopyInformation(image)
        both.append(stacked(noise, image))
    result = register_pair(*both, device="cpu")
    assert result.plan.similarity == "lncc"
    assert error_mm(result, dimension).mean() < 0.5 * VOXEL_MM[dimension]
    assert result.warped.array.shape[0] == 2
    fixed, warped = sitk.GetArrayFromImage(images[0]).ravel(), result.warped.array[1].ravel()
    assert np.corrcoef(fixed[fixed > 100], warped[fixed > 100])[0, 1] > 0.95


def test_a_bright_tool_outside_the_moving_mask_does_not_mislead_the_start():
    """Alignment and choice of the similarity are as if it were not there."""
    fixed, moving = pair(2)
    array = sitk.GetArrayFromImage(moving)
    mask = np.ones(array.shape, dtype=np.uint8)
    array[:, :22], mask[:, :26] = 8000, 0
    array[20:30, :40], mask[16:34, :44] = 8000, 0
    with_tool, inside = sitk.GetImageFromArray(array), sitk.GetImageFromArray(mask)
    for image in (with_tool, inside):
        image.CopyInformation(moving)
    fast = PairOptions("fast")
    found, plain = (
        register_pair(fixed, image, fast, moving_mask=inside, device="cpu")
        for image in (with_tool, moving)
    )
    assert found.plan.similarity == "lncc"
    assert found.alignment.kept == plain.alignment.kept == "aligned"
    np.testing.assert_allclose(
        found.alignment.transform.matrix, plain.alignment.transform.matrix, atol=1e-6
    )
    assert found.aligned.correlation == pytest.approx(plain.aligned.correlation, abs=1e-3)


@pytest.mark.parametrize("dimension", [2, 3])
def test_where_the_moving_image_shows_a_part_alone_that_part_is_right(dimension):
    fixed, moving = pair(dimension, moving_orientation="LPS")
    half = moving[moving.GetSize()[0] * 3 // 8 :]
    result = register_pair(fixed, half, device="cpu")
    points = inner_points(dimension=dimension)
    truth = points + displacement_mm(points)
    geometry = result.pair.moving.geometry
    index, size = geometry.to_index(truth), np.array(geometry.shape)
    inside = ((index >= 2) & (index <= size - 3) | (size == 1)).all(axis=1)
    assert 0.3 < inside.mean() < 0.95
    assert error_mm(result, dimension)[inside].mean() < 0.4 * VOXEL_MM[dimension]
    there = result.inverse.map_points(result.transform.map_points(points[inside]))
    assert np.linalg.norm(there - points[inside], axis=1).mean() < 0.05 * VOXEL_MM[dimension]


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


@pytest.mark.parametrize(
    ("similarity", "before", "after", "told"),
    [
        ("lncc", (1.0, 1.0), (0.9999, 0.9999), False),
        ("lncc", (0.9, 0.9), (0.85, 0.9), True),
        ("mind", (0.1, 0.5), (-0.2, 0.6), False),
        ("mind", (0.1, 0.5), (0.2, 0.4), True),
    ],
)
def test_only_a_clear_loss_is_told(similarity, before, after, told):
    plan = replace(preset_plan("fast"), similarity=similarity)
    warnings = agreement_warnings(plan, Agreement(*before, 1000), Agreement(*after, 1000))
    assert any("did not bring the images closer" in text for text in warnings) == told


@pytest.mark.parametrize("which", ["fixed", "moving"])
@pytest.mark.parametrize("wrong", ["shape", "place", "empty"])
def test_a_mask_that_does_not_fit_is_named(which, wrong):
    images = dict(zip(("fixed", "moving"), pair(2), strict=True))
    mask = images[which] * 0 + (wrong != "empty")
    mask = mask[:-3] if wrong == "shape" else mask
    if wrong == "place":
        mask.SetOrigin((50.0, 0.0))
    said = "empty" if wrong == "empty" else "lies elsewhere than its image: .* resample it"
    with pytest.raises(DataError, match=f"the mask of {which} image: .*{said}"):
        register_pair(*images.values(), **{f"{which}_mask": mask}, device="cpu")


def test_a_dropped_alignment_leaves_the_headers_placement_and_its_own_warnings(monkeypatch):
    """Two layers apart: the headers' placement joins their planes, the identity does not."""
    fixed = as_volume(pair(2)[0], "intensity")
    apart = fixed.geometry.index_to_world.copy()
    apart[2, 3] += 7
    moving = Volume.intensity(fixed.array[0], Geometry(fixed.geometry.shape, apart))
    align = start.align

    def astray(fixed, moving, settings, **masks):
        found = align(fixed, moving, settings, **masks)
        if settings.kind == "none":
            return found
        shift = np.eye(4)
        shift[:3, 3] = (9, 9, 7)
        return replace(
            found, transform=Affine(shift), kept="aligned", warnings=("of the dropped one",)
        )

    monkeypatch.setattr(start, "align", astray)
    result = register_pair(fixed, moving, PairOptions("fast", align="rigid"), device="cpu")
    assert result.alignment.kept == "headers"
    found = result.alignment.transform.map_points([[1.0, 2.0, 0.0]])
    np.testing.assert_allclose(found, [[1.0, 2.0, 7.0]], atol=1e-9)
    assert len(result.warnings) == 1
    assert "was dropped for the headers' placement" in result.warnings[0]


def test_every_step_after_a_network_is_heard_of():
    fixed, moving = (as_volume(image, "intensity") for image in pair(2))
    still = DisplacementField(
        np.zeros((3, *fixed.geometry.shape), dtype=np.float32), fixed.geometry
    )
    answer = SimpleNamespace(transform=Composite((still, Affine(np.eye(4)))), registration=None)
    network = SimpleNamespace(predict_pair=lambda *_, **__: answer)
    heard = []
    result = register_pair(
        fixed, moving, PairOptions("fast"), predictor=network, device="cpu", on_step=heard.append
    )
    assert heard
    assert tuple(heard) == result.field.steps
