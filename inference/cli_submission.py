"""autoreg_export_submission; heavy packages are imported after parsing."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from autoreg.command import make_parser, run_command

TASKS = ("lumir", "learn2reg")
SPLITS = ("validation", "test")


def main(argv: Sequence[str] | None = None) -> int:
    """Turn predictions into a submission."""
    parser = make_parser(
        "autoreg_export_submission",
        "Write the displacement files that LUMIR's and Learn2Reg's evaluators take (disp_*.nii.gz, "
        "float32, voxels) from a folder of predictions, check that every listed pair is there and "
        "no other, and zip them.",
    )
    add = parser.add_argument
    add("-i", "--input", type=Path, required=True, metavar="PREDICTIONS",
        help="output folder of autoreg_predict")  # fmt: skip
    add("-d", "--dataset", type=Path, required=True, metavar="JSON",
        help="<TASK>_dataset.json, or the folder that holds it: it lists the pairs")  # fmt: skip
    add("-o", "--output", type=Path, required=True, metavar="OUT",
        help="folder for the files; OUT.zip is written beside it")  # fmt: skip
    add("--task", choices=TASKS,
        help="whose naming rule: lumir: disp_<fixed>_<moving>; learn2reg: with the scans, too, "
        "unless 0000 is fixed and 0001 moving (default: by the data set's name)")  # fmt: skip
    add("--split", choices=SPLITS, default="validation",
        help="which pairs of the data set (default: validation)")  # fmt: skip
    add("--no-zip", action="store_true", help="write no zip file")
    return run_command(_export, parser.parse_args(argv))


def _export(arguments: argparse.Namespace) -> None:
    from autoreg.inference.export_submission import export_submission
    from autoreg.inference.submission_pairs import wanted_pairs

    wanted = wanted_pairs(arguments.dataset, arguments.task, arguments.split)
    line = export_submission(arguments.input, wanted, arguments.output, zipped=not arguments.no_zip)
    sys.stdout.write(f"{line}\n")
