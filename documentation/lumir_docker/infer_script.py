"""Register the pairs of LUMIR's test phase with a trained model.

Reads ./LUMIR_dataset.json and ./input, writes ./output/disp_<fixed>_<moving>.nii.gz: float32,
(x, y, z, 3), voxels. Pairs are registered one after the other, so that little of the disk is used.
"""

import csv
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from autoreg.inference.cli import main_predict
from autoreg.inference.cli_submission import main as export_submission

DATASET, IMAGES, OUTPUT = Path("LUMIR_dataset.json"), Path("input"), Path("output")
PAIR_LISTS = ("registration_val", "validation", "registration_test")
# Further flags of autoreg_predict, such as "--io-steps", "50".
PREDICTION = ("--model", "model")


def register(pair: dict[str, str], description: dict[str, Any], work: Path) -> Path | None:
    """Register one pair.

    Args:
        pair: Paths of the fixed and the moving image below IMAGES.
        description: What LUMIR_dataset.json holds.
        work: An empty folder.

    Returns:
        The displacement file; None if it failed, which has been told.
    """
    rows = [("fixed", "moving"), [(IMAGES / pair[role]).absolute() for role in ("fixed", "moving")]]
    with (work / "pairs.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    # The export takes registration_val first: the organisers' list must not stand beside the pair.
    rest = {key: value for key, value in description.items() if key not in PAIR_LISTS}
    (work / "dataset.json").write_text(json.dumps({**rest, "validation": [pair]}), "utf-8")
    predictions, files = work / "predictions", work / "files"
    if main_predict(["-i", str(work / "pairs.csv"), "-o", str(predictions), *PREDICTION]):
        return None
    flags = ["-d", str(work / "dataset.json"), "--task", "lumir", "--no-zip"]
    if export_submission(["-i", str(predictions), "-o", str(files), *flags]):
        return None
    return next(files.iterdir())


def main() -> int:
    """Register all pairs; 1 if one of them failed."""
    description = json.loads(DATASET.read_text("utf-8"))
    OUTPUT.mkdir(exist_ok=True)
    failed = 0
    for pair in description["validation"]:
        with tempfile.TemporaryDirectory() as folder:
            file = register(pair, description, Path(folder))
            if file is None:
                failed += 1
                sys.stderr.write(f"failed: {pair['fixed']} with {pair['moving']}\n")
            else:
                shutil.move(file, OUTPUT / file.name)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
