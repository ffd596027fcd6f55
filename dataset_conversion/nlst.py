"""NLST (Learn2Reg 2022 and 2023): lung CT, two scans of each subject.

Published as NLST_dataset.json, imagesTr/NLST_<subject>_<scan>.nii.gz with scan 0000 fixed
(baseline) and 0001 moving (aligned beforehand), masksTr (lungs) and keypointsTr (correspondences of
both scans, voxel indices without a header); 224x192x224 voxels of 1.5 mm, Hounsfield units. The
validation pairs, subjects 0101 to 0110, may also stand in the list of training pairs; reading takes
them out. It is Learn2Reg's layout, which autoreg reads in place.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from autoreg.dataset_conversion.catalogue import CATALOGUE
from autoreg.dataset_conversion.conversion import Conversion, Options
from autoreg.dataset_conversion.learn2reg import Expected, plan_in_place
from autoreg.io.cases import Pair
from autoreg.io.dataset import RawDataset, scan_dataset

VALIDATION_SUBJECTS = tuple(range(101, 111))
EXPECTED = Expected(
    name="NLST",
    json_name="NLST_dataset.json",
    shape_xyz=(224, 192, 224),
    images=tuple(
        f"imagesTr/NLST_{subject:04d}_{scan:04d}"
        for subject in VALIDATION_SUBJECTS
        for scan in (0, 1)
    ),
    companions=("masksTr", "keypointsTr"),
    origin=CATALOGUE["nlst"].origin,
)


def plan_conversion(source: Path, options: Options) -> Conversion:
    """Plan the data set NLST.

    Args:
        source: Holds NLST_dataset.json, or a folder with it.
        options: None concerns NLST.
    """
    conversion = plan_in_place(source, EXPECTED)
    root = conversion.in_place
    if root is None:
        return conversion
    dataset, _ = scan_dataset(root)
    return replace(conversion, notes=(*conversion.notes, *_notes(dataset)))


def _notes(dataset: RawDataset) -> Iterable[str]:
    """The number of pairs, pairs other than the evaluator's, and CT that is not called so."""
    training, validation = dataset.training_pairs or (), dataset.validation_pairs or ()
    yield f"{len(training)} training pairs and {len(validation)} validation pairs"
    evaluated = {
        Pair(f"NLST_{subject:04d}_0000", f"NLST_{subject:04d}_0001")
        for subject in VALIDATION_SUBJECTS
    }
    if set(validation) != evaluated:
        yield (
            f"{EXPECTED.json_name} lists other validation pairs than the evaluator's, which are "
            "subjects 0101 to 0110 with scan 0000 fixed and scan 0001 moving"
        )
    modalities = {name for case in dataset.training for name in case.modalities}
    if modalities - {"CT"}:
        yield (
            f"{EXPECTED.json_name} calls the modality {', '.join(sorted(modalities))}: unless it "
            "says CT, intensities are not taken for Hounsfield units"
        )
