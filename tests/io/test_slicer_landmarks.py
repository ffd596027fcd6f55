"""Point lists of 3D Slicer: their own coordinate system is obeyed."""

import json

import numpy as np
import pytest

from autoreg.errors import DataError
from autoreg.io.landmarks import read_landmarks, read_named_landmarks, write_landmarks

# As Slicer 4.10, 5 and its documentation write them; one and the same two points.
OLD = """# Markups fiducial file version = 4.10
# CoordinateSystem = 0
# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID
vtkMRMLMarkupsFiducialNode_0,-10.5,20,30.25,0,0,0,1,1,1,0,apex,,vtkMRMLScalarVolumeNode1
vtkMRMLMarkupsFiducialNode_1,1,-2,3,0,0,0,1,1,1,0,"left, lower",note,
"""
NEW = """# Markups fiducial file version = 5.6
# CoordinateSystem = LPS
# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID
1,10.5,-20,30.25,0,0,0,1,1,1,0,apex,,,2,0

2,-1,2,3,0,0,0,1,1,1,0,"left, lower",note,,2,0
"""
POINTS = [[10.5, -20, 30.25], [-1, 2, 3]]
NAMES = ("apex", "left, lower")


def markups(frame="LPS", **changes):
    sign = 1 if frame == "LPS" else -1
    points = [
        {"label": name, "position": [sign * x, sign * y, z], "positionStatus": "defined"}
        for name, (x, y, z) in zip(NAMES, POINTS, strict=True)
    ]
    markup = {"type": "Fiducial", "coordinateSystem": frame, "coordinateUnits": "mm"}
    return {"@schema": "...", "markups": [{**markup, "controlPoints": points, **changes}]}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("old.fcsv", OLD),
        ("old.fcsv", OLD.replace("= 0", "= RAS")),
        ("new.fcsv", NEW),
        ("new.fcsv", NEW.replace("= LPS", "= 1")),
        ("lps.mrk.json", json.dumps(markups("LPS"))),
        ("ras.mrk.json", json.dumps(markups("RAS"))),
        ("Ras.MRK.JSON", json.dumps(markups("RAS", coordinateUnits=["mm", "UCUM", "millimeter"]))),
    ],
)
def test_whatever_the_frame_points_are_in_lps(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    found = read_named_landmarks(path)
    np.testing.assert_allclose(found.points_mm, POINTS)
    assert found.names == NAMES
    np.testing.assert_allclose(read_landmarks(path), POINTS)


@pytest.mark.parametrize("name", ["out.fcsv", "out.mrk.json"])
def test_round_trip(tmp_path, name):
    points = np.random.default_rng(0).normal(size=(5, 3)) * 100
    names = ("a", "b, c", 'd "e"', "", "ü")
    broken = ("a", "b, c", 'd\n"e"', "", "ü\r\n")
    write_landmarks(tmp_path / name, points, names)
    found = read_named_landmarks(tmp_path / name)
    np.testing.assert_allclose(found.points_mm, points, atol=1e-6)
    assert found.names == names
    assert "LPS" in (tmp_path / name).read_text("utf-8")
    write_landmarks(tmp_path / name, points, broken)
    assert read_named_landmarks(tmp_path / name).names == ("a", "b, c", 'd "e"', "", "ü")
    write_landmarks(tmp_path / name, points)
    assert read_named_landmarks(tmp_path / name).names == ("F-1", "F-2", "F-3", "F-4", "F-5")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("p.fcsv", NEW.replace("# CoordinateSystem = LPS\n", ""), "coordinate system is not said"),
        ("p.fcsv", NEW.replace("LPS", "IJK"), "'IJK', expected LPS or RAS"),
        ("p.fcsv", NEW.replace("-20", "x"), r"p\.fcsv, line 4: found"),
        ("p.fcsv", NEW.replace("-20", "nan"), r"line 4"),
        ("p.fcsv", "".join(NEW.splitlines(True)[:3]), "holds no landmarks"),
        ("p.mrk.json", json.dumps(markups("IJK")), "'IJK', expected LPS or RAS"),
        ("p.mrk.json", json.dumps(markups(type="Line")), "holds a Line"),
        ("p.mrk.json", json.dumps(markups(coordinateUnits="um")), "expected mm"),
        ("p.mrk.json", json.dumps(markups(coordinateUnits=[])), r"are in \[\], expected mm"),
        ("p.mrk.json", json.dumps(markups(coordinateUnits=None)), "are in None, expected mm"),
        ("p.mrk.json", json.dumps(markups(coordinateUnits=7)), "are in 7, expected mm"),
        ("p.mrk.json", json.dumps(markups(coordinateSystem=["LPS"])), "expected LPS or RAS"),
        ("p.mrk.json", json.dumps(markups(coordinateSystem={})), "expected LPS or RAS"),
        ("p.fcsv", NEW.replace("note", "n" * 140_000), r"p\.fcsv, line 6: cannot be read"),
        ("p.csv", "x,y,z\n1,2," + "3" * 140_000, "cannot be read"),
        ("p.mrk.json", json.dumps(markups(controlPoints=[])), "holds no landmarks"),
        ("p.mrk.json", json.dumps(markups(controlPoints=[{"position": "123"}])), "point 1: found"),
        ("p.mrk.json", json.dumps(markups(controlPoints=[{"label": "a"}])), "point 1: found None"),
        ("p.mrk.json", json.dumps(markups()).replace("defined", "undefined", 1), "not placed"),
        (
            "p.mrk.json",
            json.dumps({"markups": markups()["markups"] * 2}),
            "holds 2 lists, expected",
        ),
        ("p.mrk.json", '{"markups": []}', "holds 0 lists, expected one"),
        ("p.mrk.json", '{"markups": [{}]}', "not as 3D Slicer writes it"),
        ("p.mrk.json", "[1, 2]", "no point list of 3D Slicer"),
        ("p.mrk.json", "no json", "not valid JSON"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=words) as caught:
        read_landmarks(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_missing_files_are_named(tmp_path):
    for name in ("absent.fcsv", "absent.mrk.json"):
        with pytest.raises(DataError, match=f"{name}: no such file"):
            read_landmarks(tmp_path / name)
