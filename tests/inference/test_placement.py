import numpy as np
import pytest
from tiny_models import sitk_image, tiny_plan

from autoreg.inference.placement import placement_notes
from autoreg.io.images import from_sitk
from autoreg.plan import AlignmentPlan, GridPlan


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
