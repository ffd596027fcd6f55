import numpy as np
import pytest
import SimpleITK as sitk
from raw_datasets import blob, native, touch, write_array, write_json

from autoreg.errors import DataError
from autoreg.planning.verification import require_valid, verify


def problems_of(folder):
    return verify(folder, workers=1)


def only_problem(folder):
    problems = problems_of(folder)
    assert len(problems) == 1, problems
    return problems[0]


def write_points(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x,y,z\n" + "".join(f"{row}\n" for row in rows))


def test_a_sound_data_set_has_no_problems(tmp_path):
    native(tmp_path, channels=2, description={"labels": {"ball": 3}})
    labels = 3 * (blob() > 0).astype(np.float32)  # whole numbers, stored as real ones
    write_array(tmp_path / "labelsTr" / "a.nii.gz", labels)
    write_array(tmp_path / "masksTr" / "b.nii.gz", (blob() > 0).astype(np.uint8))
    write_points(tmp_path / "landmarksTr" / "a.csv", ["1,2,3"])
    assert problems_of(tmp_path) == ()
    assert require_valid(tmp_path, workers=1).name == tmp_path.name


def test_cases_may_differ_in_shape_spacing_origin_and_direction(tmp_path):
    native(tmp_path, cases=("a",))
    write_array(
        tmp_path / "imagesTr" / "b_0000.mha", blob((9, 7, 11)), (2.0, 1.0, 3.0), (50.0, -3.0, 8.0)
    )
    turned = sitk.GetImageFromArray(blob())
    turned.SetDirection((0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, -1))
    sitk.WriteImage(turned, str(tmp_path / "imagesTr" / "c_0000.nrrd"))
    assert problems_of(tmp_path) == ()


def with_nan(image):
    image[3, 2, 1] = np.nan
    image[5, 5, 5] = np.inf
    return image


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (with_nan, "2 of 960 voxels NaN or infinite, the first at (d, h, w) = (3, 2, 1)"),
        (np.zeros_like, "an empty image"),
        (lambda image: np.full_like(image, 7.5), "all voxels 7.5"),
        (lambda image: image[0], "2-D"),
        (lambda image: np.stack([image, image], -1), "2 components"),
    ],
)
def test_a_damaged_image_is_told(tmp_path, damage, found):
    native(tmp_path)
    path = tmp_path / "imagesTr" / "b_0000.nii.gz"
    array = damage(blob())
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=array.ndim == 4), str(path))
    problem = only_problem(tmp_path)
    assert problem.file == str(path)
    assert found in problem.found


@pytest.mark.parametrize("shape", [(1, 20, 20), (20, 3, 20)])
def test_an_image_of_a_few_slices_is_told(tmp_path, shape):
    native(tmp_path)
    path = tmp_path / "imagesTr" / "b_0000.nii.gz"
    write_array(path, blob(shape))
    problem = only_problem(tmp_path)
    assert problem.file == str(path)
    assert f"{shape} voxels along (d, h, w), too thin" in problem.found
    assert problem.expected == "at least 4 voxels along every axis"
    assert "2-D is not supported" in problem.remedy


def test_an_unreadable_image_is_told(tmp_path):
    native(tmp_path)
    path = tmp_path / "imagesTr" / "b_0000.nii.gz"
    path.write_bytes(path.read_bytes()[:200])
    problem = only_problem(tmp_path)
    assert problem.file == str(path)
    assert problem.expected == "a three-dimensional scalar image"


@pytest.mark.parametrize("folder", ["labelsTr", "masksTr"])
@pytest.mark.parametrize(
    ("shape", "origin", "found"),
    [((12, 10, 9), (0.0, 0.0, 0.0), "shape"), ((12, 10, 8), (0.5, 0.0, 0.0), "origin")],
)
def test_labels_and_masks_lie_on_their_image(tmp_path, folder, shape, origin, found):
    native(tmp_path)
    write_array(tmp_path / folder / "b.nii.gz", np.ones(shape, np.uint8), origin=origin)
    problem = only_problem(tmp_path)
    assert problem.file == str(tmp_path / folder / "b.nii.gz")
    assert found in problem.found
    assert "b_0000.nii.gz" in problem.expected


def test_channels_of_a_case_lie_on_one_grid(tmp_path):
    native(tmp_path, channels=2)
    path = tmp_path / "imagesTr" / "c_0001.nii.gz"
    write_array(path, blob(), spacing=(1.0, 1.0, 2.0))
    problem = only_problem(tmp_path)
    assert problem.file == str(path)
    assert "spacing" in problem.found


def test_label_values_are_whole_and_listed(tmp_path):
    native(tmp_path, description={"labels": {"one": 1, "two": 2}})
    values = np.zeros((12, 10, 8), np.float32)
    values[2], values[3] = 1, 1.5
    write_array(tmp_path / "labelsTr" / "a.nii.gz", values)
    write_array(tmp_path / "labelsTr" / "b.nii.gz", 4 * np.ones((12, 10, 8), np.uint8))
    whole, listed = problems_of(tmp_path)
    assert "80 voxels of this label map are not whole numbers, for example 1.5" in whole.found
    assert listed.found == "the unlisted value 4"
    assert "values 1, 2" in listed.expected


def test_any_whole_values_do_without_a_list(tmp_path):
    native(tmp_path)
    write_array(tmp_path / "labelsTr" / "b.nii.gz", 4 * np.ones((12, 10, 8), np.uint8))
    assert problems_of(tmp_path) == ()


def test_an_empty_mask_is_told(tmp_path):
    native(tmp_path)
    write_array(tmp_path / "masksTr" / "b.nii.gz", np.zeros((12, 10, 8), np.uint8))
    assert only_problem(tmp_path).found == "all voxels 0"


def test_malformed_lines_are_told_with_their_numbers(tmp_path):
    native(tmp_path)
    path = tmp_path / "landmarksTr" / "a.csv"
    write_points(path, ["1,2,3", "1,2", "1,two,3", "", "4,5,nan"])
    problems = problems_of(tmp_path)
    assert [p.file for p in problems] == [f"{path}, line {n}" for n in (3, 4, 6)]
    assert "'1,two,3'" in problems[1].found


def test_a_missing_header_is_told(tmp_path):
    native(tmp_path)
    path = tmp_path / "landmarksTr" / "a.csv"
    write_points(path, ["1,2,3"])
    path.write_text(path.read_text().replace("x,y,z\n", ""))
    assert "expected 'x,y,z'" in only_problem(tmp_path).found


@pytest.mark.parametrize("header", ["X;Y;Z", "a,b,c", "x,y", "x,y,z,name"])
def test_a_wrong_header_is_told_once_with_its_remedy(tmp_path, header):
    native(tmp_path)
    path = tmp_path / "landmarksTr" / "a.csv"
    write_points(path, ["1;2;3", "4;5;6"])
    path.write_text(path.read_text().replace("x,y,z", header))
    problem = only_problem(tmp_path)
    assert problem.file == str(path)
    assert f"the first line is '{header}'" in problem.found
    assert problem.expected == "the header x,y,z and one point per line"
    assert "separate the numbers by commas" in problem.remedy


def test_a_point_list_of_slicer_is_verified_too(tmp_path):
    native(tmp_path)
    path = tmp_path / "landmarksTr" / "a.fcsv"
    path.parent.mkdir()
    text = "# CoordinateSystem = LPS\n1,1,2,3,0,0,0,1,1,1,0,apex,,\n"
    path.write_text(text)
    assert problems_of(tmp_path) == ()
    path.write_text(text.replace("LPS", "IJK"))
    problem = only_problem(tmp_path)
    assert problem.file == str(path)
    assert "the coordinate system is 'IJK'" in problem.found
    assert problem.expected == "a point list of 3D Slicer"
    path.rename(path.with_name("a.txt"))
    assert problems_of(tmp_path)[0].expected == "one ending in .csv or .fcsv or .mrk.json"


def test_points_outside_the_image_are_told(tmp_path):
    native(tmp_path)
    write_points(tmp_path / "landmarksTr" / "a.csv", ["1,2,3", "-1,-2,3", "7,9,11", "8,2,3"])
    problem = only_problem(tmp_path)
    assert "2 of 4 points outside the image: points 2, 4" in problem.found
    assert "RAS" in problem.remedy


def test_files_of_a_pair_have_equally_many_points(tmp_path):
    pairs = [{"fixed": "a", "moving": "b"}, {"fixed": "b", "moving": "c"}]
    native(tmp_path, description={"training_pairs": pairs})
    for case, count in (("a", 1), ("b", 2), ("c", 2)):
        write_points(tmp_path / "landmarksTr" / f"{case}.csv", ["1,2,3"] * count)
    problem = only_problem(tmp_path)
    assert problem.file == str(tmp_path / "landmarksTr" / "a.csv")
    assert problem.found == "1 points, but 2 in b.csv, with which it is paired"


def test_all_landmarks_correspond_where_any_pair_may_be_drawn(tmp_path):
    native(tmp_path)
    for case, count in (("a", 2), ("b", 2), ("c", 3)):
        write_points(tmp_path / "landmarksTr" / f"{case}.csv", ["1,2,3"] * count)
    assert "3 points, but 2 in a.csv" in only_problem(tmp_path).found


@pytest.mark.parametrize(
    ("cases", "description", "found"),
    [
        ((), None, "no training case"),
        (("a",), None, "one training case"),
        (("a", "b"), {"pairing": "intra_subject"}, "no training pair"),
        (
            ("a", "b", "c"),
            {"validation_pairs": [{"fixed": "a", "moving": "b"}]},
            "validation_pairs leave 1 cases",
        ),
    ],
)
def test_there_must_be_something_to_train_with(tmp_path, cases, description, found):
    (tmp_path / "imagesTr").mkdir()
    native(tmp_path, cases=cases, description=description)
    assert found in only_problem(tmp_path).found


def test_everything_is_told_at_once(tmp_path):
    """Structure, contents and pairs in one error."""
    native(tmp_path, description={"lables": {"ball": 1}})
    write_array(tmp_path / "imagesTr" / "b_0000.nii.gz", np.zeros((12, 10, 8), np.float32))
    write_array(tmp_path / "labelsTr" / "a.nii.gz", np.ones((3, 3, 3), np.uint8))
    touch(tmp_path, "masksTr/zz.nii.gz")
    write_points(tmp_path / "landmarksTr" / "c.csv", ["100,2,3"])
    with pytest.raises(DataError) as error:
        require_valid(tmp_path, workers=1)
    text = str(error.value)
    assert f"{tmp_path}: 5 problems" in text
    for part in ('did you mean "labels"?', "an empty image", "shape", "zz.nii.gz", "outside"):
        assert part in text
    assert text.count("remedy:") == 5


def test_equal_problems_are_told_once_for_all_files(tmp_path):
    native(tmp_path, cases=[f"c{number:02d}" for number in range(25)])
    for number in range(24):
        write_array(
            tmp_path / "imagesTr" / f"c{number:02d}_0000.nii.gz", np.zeros((4, 4, 4), np.float32)
        )
    with pytest.raises(DataError) as error:
        require_valid(tmp_path, workers=1)
    text = str(error.value)
    assert "24 problems" in text
    assert text.count("remedy:") == 1
    assert "... and 4 more files" in text


def test_processes_find_the_same(tmp_path):
    native(tmp_path)
    write_array(tmp_path / "imagesTr" / "b_0000.nii.gz", np.zeros((12, 10, 8), np.float32))
    write_array(tmp_path / "imagesTr" / "c_0000.nii.gz", np.ones((12, 10, 8), np.float32))
    assert verify(tmp_path, workers=2) == verify(tmp_path, workers=1)


def test_points_in_voxels_are_checked_against_their_own_image(tmp_path):
    names = [f"imagesTr/T_0001_000{n}.nii.gz" for n in (0, 1)]
    for name, shape in zip(names, ((12, 10, 8), (6, 10, 8)), strict=True):
        write_array(tmp_path / name, blob(shape))
    pair = dict(zip(("fixed", "moving"), names, strict=True))
    write_json(tmp_path / "T_dataset.json", {"training_paired_images": [pair]})
    for number in (0, 1):
        file = tmp_path / "keypointsTr" / f"T_0001_000{number}.csv"
        file.parent.mkdir(exist_ok=True)
        file.write_text("7,9,11\n")  # x, y, z: inside the first image only
    problem = only_problem(tmp_path)
    assert problem.file.endswith("T_0001_0001.csv")
    assert "(d, h, w) = [11.0, 9.0, 7.0]" in problem.found
