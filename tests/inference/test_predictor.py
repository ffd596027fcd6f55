import dataclasses

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from tiny_models import sitk_image

from autoreg.errors import CheckpointError, DataError, PlanError
from autoreg.geometry.grid import Geometry
from autoreg.geometry.volume import Volume
from autoreg.inference.predictor import Predictor

NO_CHANGE = 1e-4


@pytest.fixture(scope="module")
def predictor(model):
    return Predictor.from_model(model, device="cpu")


@pytest.fixture(scope="module")
def images():
    return (
        sitk_image(1, (14, 17, 12), (1.5, 1.2, 2.0), "RAS"),
        sitk_image(2, (16, 13, 15), (1.3, 1.6, 1.4)),
    )


@pytest.fixture(scope="module")
def no_io(predictor):
    return dataclasses.replace(predictor.plan.instance_optimisation, mode="none")


def as_array_with_geometry(image):
    geometry = Geometry.from_itk(
        image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()
    )
    return Volume.intensity(sitk.GetArrayFromImage(image), geometry)


def test_simpleitk_images_and_arrays_give_the_same(predictor, images, no_io):
    one = predictor.predict_pair(*images, io=no_io)
    two = predictor.predict_pair(*map(as_array_with_geometry, images), io=no_io)
    np.testing.assert_array_equal(one.warped.array, two.warped.array)
    points = np.array([[0.0, 1.0, 2.0], [-4.0, 3.0, 1.0]])
    np.testing.assert_array_equal(
        one.transform.map_points(points), two.transform.map_points(points)
    )
    assert one.warped.geometry.shape == (12, 17, 14)


def test_the_warped_image_is_the_moving_one_at_the_mapped_points(predictor, images, no_io):
    prediction = predictor.predict_pair(*images, io=no_io)
    index = np.array([[6, 8, 7], [5, 9, 6], [7, 7, 8]])
    points = prediction.transform.map_points(prediction.fixed.geometry.to_world(index))
    moving = images[1]
    expected = [moving.EvaluateAtPhysicalPoint(p.tolist(), sitk.sitkLinear) for p in points]
    found = prediction.warped.single[tuple(index.T)]
    np.testing.assert_allclose(found, expected, atol=0.05)


def test_labels_and_masks_are_warped_without_new_values(predictor, images, no_io):
    prediction = predictor.predict_pair(*images, io=no_io)
    labels = sitk.Cast(images[1] > 300, sitk.sitkUInt8) * 7
    warped = prediction.warp(labels, "label")
    assert warped.kind == "label"
    assert set(np.unique(warped.array)) == {0, 7}
    assert prediction.warp(images[1] > 300, "mask").array.dtype == np.bool_


def test_the_network_is_untouched_and_the_result_repeatable(predictor, images):
    before = {k: v.clone() for k, v in predictor.network.state_dict().items()}
    one = predictor.predict_pair(*images)
    two = predictor.predict_pair(*images)
    assert one.registration.trace is not None
    np.testing.assert_array_equal(one.registration.u_vox, two.registration.u_vox)
    for key, value in predictor.network.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def test_a_mask_of_everything_changes_nothing(predictor, images):
    plain = predictor.predict_pair(*images)
    masked = predictor.predict_pair(*images, fixed_mask=images[0] * 0 + 1)
    deviation = np.abs(plain.registration.u_vox - masked.registration.u_vox).max()
    assert deviation < 1e-2


def test_bad_input_is_named(predictor, images, tmp_path):
    with pytest.raises(PlanError, match=r'modality "PT": .*known: CT, MR'):
        predictor.predict_pair(*images, fixed_modalities=["PT"])
    with pytest.raises(DataError, match=r"fixed image: .*constant"):
        predictor.predict_pair(images[0] * 0, images[1])
    with pytest.raises(DataError, match=r"moving image: .*2 channels"):
        predictor.predict_pair(images[0], sitk.Compose(images[1], images[1]))
    with pytest.raises(CheckpointError, match="no fold"):
        Predictor.from_model(tmp_path)
