import numpy as np
import pytest
from tiny_models import sitk_image, tiny_plan

from autoreg.geometry.volume import Volume
from autoreg.inference.placement import modality_notes, placement_notes
from autoreg.io.images import from_sitk
from autoreg.plan import AlignmentPlan, GridPlan, IntensityPlan


def image(orientation="RAS", shift=0.0):
    found = sitk_image(1, (14, 12, 13), (1.5, 1.5, 1.5), orientation)
    found.SetOrigin(tuple(np.array(found.GetOrigin()) + shift))
    return from_sitk(found, "intensity")


@pytest.mark.parametrize(("moving", "count"), [("RAS", 0), ("LPS", 1), ("PIR", 1)])
def test_boxes_want_one_orientation(moving, count):
    notes = placement_notes(image(), image(moving), tiny_plan(alignment=AlignmentPlan("boxes")))
    assert len(notes) == count
    assert all("lays them on each other" in note for note in notes)


def test_other_alignments_take_any_orientation():
    for alignment in (AlignmentPlan("centres"), AlignmentPlan("world", (0.0, 0.0, 0.0))):
        assert placement_notes(image(), image("LPS"), tiny_plan(alignment=alignment)) == ()


def test_a_world_grid_that_misses_the_anatomy_is_told():
    alignment = AlignmentPlan("world", (0.0, 0.0, 0.0))
    plan = tiny_plan(alignment=alignment, grid=GridPlan((16, 16, 16), (1.5, 1.5, 1.5), False))
    (note,) = placement_notes(image(), image(shift=15.0), plan)
    assert "moving image's foreground" in note
    assert placement_notes(image(), image(shift=2.0), plan) == ()


@pytest.mark.parametrize(
    ("modality", "lowest", "warned"),
    [("CT", -1000, False), ("MR", 0, False), ("CT", 0, True), ("MR", -1000, True)],
)
def test_swapped_modalities_are_told(modality, lowest, warned):
    schemes = {
        "CT": IntensityPlan("window", -1000.0, 1000.0),
        "MR": IntensityPlan("quantiles", 0.0, 0.99),
    }
    plan = tiny_plan(fixed_modalities=("CT",), moving_modalities=("MR",), intensity=schemes)
    geometry = image().geometry
    values = np.linspace(lowest, 900, int(np.prod(geometry.shape))).reshape(geometry.shape)
    notes = modality_notes("fixed", Volume.intensity(values, geometry), (modality,), plan)
    assert len(notes) == warned
    assert all("check which image is which" in note for note in notes)


@pytest.mark.parametrize(
    ("values", "window", "warned"),
    [
        ((0.0, 1.0), (0.0, 1.0), None),
        ((0.0, 900.0), (0.0, 1.0), "of its voxels above 1"),
        ((0.0, 1.0), (0.0, 255.0), "values up to 1 alone"),
        ((-1000.0, 1100.0), (-1000.0, 1000.0), None),
        ((-1000.0, -990.0), (-1000.0, 1000.0), "values up to -990 alone"),
    ],
)
def test_a_window_that_was_made_for_other_images_is_told(values, window, warned):
    plan = tiny_plan(intensity={"MR": IntensityPlan("window", *window)})
    geometry = image().geometry
    array = np.linspace(*values, int(np.prod(geometry.shape))).reshape(geometry.shape)
    notes = modality_notes("fixed", Volume.intensity(array, geometry), ("MR",), plan)
    assert len(notes) == (warned is not None)
    assert all(warned in note for note in notes)
