"""autoreg_apply_transform and autoreg_convert_transform; heavy packages come after parsing."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from autoreg.command import make_parser, roomy_heap, run_command
from autoreg.errors import UsageError
from autoreg.io.names import LANDMARK_SUFFIXES

CONTENTS = ("image", "labels", "mask", "points")
INTERPOLATIONS = ("linear", "cubic", "nearest")
JACOBIANS = ("determinant", "log")
FORMATS = ("displacement", "itk", "learn2reg", "fsl", "fsl-absolute")

_DIRECTION = """
direction and order:
  A transform of a registration takes points of the FIXED image to points of the MOVING image.
  With it, points of the fixed image are mapped, and the moving image is pulled back onto the fixed
  image's grid. Points of the moving image, or the fixed image, want the inverse.

  Several -t are given as to antsApplyTransforms: a point of the fixed image goes through the first
  one first. (The moving image seems to be moved by the last one first.) The inverse of the chain
  is written backwards: -t A -t B becomes -t inverse:B -t inverse:A.

examples:
  moving image and labels onto the fixed image (OUT/case is a folder of autoreg_predict)
    autoreg_apply_transform -i moving.nii.gz -t OUT/case -o warped.nii.gz
    autoreg_apply_transform -i labels.nii.gz --kind labels -t OUT/case -o warped_labels.nii.gz
  landmarks of the fixed image into the moving one, and those of the moving image into the fixed one
    autoreg_apply_transform -i fixed_points.csv -t OUT/case -o in_moving.csv
    autoreg_apply_transform -i moving_points.csv -t inverse:OUT/case -o in_fixed.csv
  a chain of ANTs
    autoreg_apply_transform -i moving.nii.gz -r fixed.nii.gz -o warped.nii.gz \\
        -t ants1Warp.nii.gz -t ants0GenericAffine.mat
"""


def main_apply(argv: Sequence[str] | None = None) -> int:
    """Carry images, label maps, masks or points over by transforms."""
    parser = make_parser(
        "autoreg_apply_transform",
        "Carry an image, label map, mask or points over by one or several transforms, interpolated "
        "once; or map their Jacobian determinant.",
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _DIRECTION
    add = parser.add_argument
    add("-i", "--input", type=Path, metavar="FILE",
        help="moving image, label map or mask; or points of the fixed image (.csv, or 3D Slicer's "
        ".fcsv or .mrk.json)")  # fmt: skip
    add("-t", "--transform", action="append", required=True, metavar="T",
        help="displacement (.nii.gz .nii .nrrd .mha), ITK or ANTs transform (.tfm .txt .h5 .hdf5 "
        ".mat), or folder of a registered pair; inverse:T for its inverse; may be repeated",
        )  # fmt: skip
    add("-r", "--reference", type=Path, metavar="IMAGE",
        help="image whose grid the result gets; for points in voxels, the image that they are of "
        "(default: the grid of the first displacement)")  # fmt: skip
    add("-o", "--output", type=Path, required=True, metavar="FILE",
        help=".nii.gz, .nii, .nrrd or .mha; .csv, .fcsv or .mrk.json for points")  # fmt: skip
    add("--kind", choices=CONTENTS,
        help="what FILE is (default: points for .csv, .fcsv and .mrk.json, otherwise image)",
        )  # fmt: skip
    add("--interpolation", choices=INTERPOLATIONS,
        help="default: linear for images, nearest for labels and masks; linear for labels: the "
        "label with the largest linearly interpolated share")  # fmt: skip
    add("--outside", type=float, metavar="VALUE",
        help="value beyond the moving image; nan for real numbers alone (default: 0)")  # fmt: skip
    add("--voxels", action="store_true",
        help="points are voxel indices along the files' axes, from 0, without a header: of "
        "--reference on the way in, of --moving on the way out (default: LPS mm with the header "
        "x,y,z; Slicer's files say LPS or RAS themselves)")  # fmt: skip
    add("--moving", type=Path, metavar="IMAGE", help="with --voxels: the moving image")
    add("--jacobian", choices=JACOBIANS,
        help="instead of -i: write the Jacobian determinant of the whole chain, or its natural "
        "logarithm")  # fmt: skip
    return run_command(_apply, parser.parse_args(argv), roomy_heap)


def _apply(arguments: argparse.Namespace) -> None:
    if arguments.jacobian is not None:
        line = _jacobian(arguments)
    elif arguments.input is None:
        raise UsageError("nothing to do: give -i FILE, or --jacobian determinant")
    elif _kind(arguments) == "points":
        line = _points(arguments)
    else:
        line = _image(arguments, _kind(arguments))
    sys.stdout.write(f"{line}\n")


def _kind(arguments: argparse.Namespace) -> str:
    is_points = arguments.input.name.lower().endswith(LANDMARK_SUFFIXES)
    kind = str(arguments.kind or ("points" if is_points else "image"))
    if (kind == "points") != is_points:
        endings = ", ".join(LANDMARK_SUFFIXES)
        raise UsageError(
            f"{arguments.input}: --kind {kind}, but points are read from {endings} alone"
        )
    return kind


def _refuse(arguments: argparse.Namespace, names: Sequence[str], what: str) -> None:
    """Refuse flags that would do nothing."""
    for name in names:
        if getattr(arguments, name) not in (None, False):
            raise UsageError(f"--{name} does nothing for {what}; drop it")


def _jacobian(arguments: argparse.Namespace) -> str:
    from autoreg.inference.apply_transform import write_jacobian

    flags = ("input", "kind", "interpolation", "outside", "voxels", "moving")
    _refuse(arguments, flags, "--jacobian")
    return write_jacobian(
        arguments.transform,
        arguments.reference,
        arguments.output,
        logarithm=arguments.jacobian == "log",
    )


def _points(arguments: argparse.Namespace) -> str:
    from autoreg.inference.apply_transform import PointOptions, apply_to_points

    _refuse(arguments, ("interpolation", "outside"), "points")
    return apply_to_points(
        arguments.input,
        arguments.transform,
        arguments.reference,
        arguments.output,
        PointOptions(arguments.voxels, arguments.moving),
    )


def _image(arguments: argparse.Namespace, kind: str) -> str:
    from autoreg.inference.apply_transform import ImageOptions, apply_to_image

    _refuse(arguments, ("voxels", "moving"), f"--kind {kind}")
    outside = 0.0 if arguments.outside is None else arguments.outside
    return apply_to_image(
        arguments.input,
        arguments.transform,
        arguments.reference,
        arguments.output,
        ImageOptions(kind, arguments.interpolation, outside),  # type: ignore[arg-type]
    )


def main_convert(argv: Sequence[str] | None = None) -> int:
    """Convert transforms between the files of different programs."""
    parser = make_parser(
        "autoreg_convert_transform",
        "Convert a transform, or a chain of several, into the file of another program.",
    )
    add = parser.add_argument
    add("input", nargs="+", metavar="IN",
        help="transform, as autoreg_apply_transform -t takes it (inverse:IN for its inverse); "
        "several are chained, the first being the first that a point of the fixed image goes "
        "through")  # fmt: skip
    add("-o", "--output", type=Path, required=True, metavar="OUT", help="file to write")
    add("--to", choices=FORMATS,
        help="displacement: ITK, ANTs or 3D Slicer displacement, LPS mm (.nii.gz .nii .nrrd .mha); "
        "itk: ITK or ANTs transform (.h5 .hdf5 .tfm .txt .mat); learn2reg: voxels (.nii.gz .npz); "
        "fsl: flirt matrix (.mat) or warp of relative displacements (.nii.gz .nii); fsl-absolute: "
        "warp of points (default: by the ending: displacement, itk, or learn2reg for .npz)",
        )  # fmt: skip
    add("--from", dest="origin", choices=FORMATS,
        help="form of IN; learn2reg and fsl must be named, the others say what they are",
        )  # fmt: skip
    add("-r", "--reference", type=Path, metavar="FIXED",
        help="fixed image; needed where an affine map becomes a displacement, to sample on its "
        "grid, and for learn2reg and fsl (default: the grid of the first displacement)",
        )  # fmt: skip
    add("--moving", type=Path, metavar="MOVING", help="moving image, for learn2reg and fsl")
    add("--half-resolution", action="store_true",
        help="learn2reg: write the form of 2020 and 2021 (.npz, float16, half resolution)",
        )  # fmt: skip
    return run_command(_convert, parser.parse_args(argv))


def _convert(arguments: argparse.Namespace) -> None:
    from autoreg.inference.convert_transform import Conversion, convert_transform

    conversion = Conversion(
        tuple(arguments.input),
        arguments.output,
        arguments.origin,
        arguments.to,
        arguments.reference,
        arguments.moving,
        arguments.half_resolution,
    )
    sys.stdout.write(f"{convert_transform(conversion)}\n")
