"""Small trees in the published layouts of LUMIR, OASIS and NLST; one image's bytes serve many."""

import json
from itertools import pairwise

import numpy as np
from raw_datasets import blob, write_array, write_json


def one_image(folder, shape_xyz, values=None, name="image.nii.gz"):
    """Bytes of an image of that shape (voxels x, y, z); `values` makes it a label map of them."""
    shape = tuple(reversed(shape_xyz))
    if values is None:
        array = blob(shape, radius=min(shape) / 3)
    else:
        count = int(np.prod(shape))
        array = np.resize(np.array([0, *values], np.uint8), count).reshape(shape)
    write_array(folder / name, array)
    return (folder / name).read_bytes()


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def lumir_tree(folder, image, label, training, labelled, validation=range(3454, 3494)):
    """LUMIR as published: images of subjects, label maps of some, the json."""
    for subject in training:
        put(folder / f"LUMIR/imagesTr/LUMIRMRI_{subject:04d}_0000.nii.gz", image)
    for subject in validation:
        put(folder / f"LUMIR/imagesVal/LUMIRMRI_{subject:04d}_0000.nii.gz", image)
    for subject in labelled:
        put(folder / f"LUMIR/SanityCheckLabelsTr/LUMIRMRI_{subject:04d}_0000.nii.gz", label)
    pairs = [(fixed, fixed - 1) for fixed in range(3455, 3494) if fixed != 3484]
    path = "./imagesVal/LUMIRMRI_{}_0000.nii.gz".format
    entries = [{"fixed": path(fixed), "moving": path(moving)} for fixed, moving in pairs]
    images = [{"image": f"./imagesTr/LUMIRMRI_{subject:04d}_0000.nii.gz"} for subject in training]
    write_json(folder / "LUMIR/LUMIR_dataset.json", {"training": images, "validation": entries})
    return folder


def neurite_tree(folder, subjects, files):
    """OASIS as neurite published it; `files` are the bytes of each file of a subject."""
    names = [f"OASIS_OAS1_{number:04d}_MR1" for number in range(1, subjects + 1)]
    put(folder / "subjects.txt", ("\n".join(names) + "\n").encode())
    for name in names:
        for file, content in files.items():
            put(folder / name / file, content)
    return names


def learn2reg_oasis_tree(folder, image, label, subjects, held_out):
    """OASIS as Learn2Reg published it."""
    names = [f"OASIS_{number:04d}_0000.nii.gz" for number in range(1, subjects + 1)]
    for name in names:
        put(folder / "imagesTr" / name, image)
        put(folder / "labelsTr" / name, label)
    listed = [f"./imagesTr/{name}" for name in names]
    pairs = [{"fixed": a, "moving": b} for a, b in pairwise(listed)]
    description = {
        "name": "OASIS",
        "modality": {"0": "MR"},
        "labels": {"0": {"0": "background", "1": "Left-Cerebral-White-Matter"}},
        "tensorImageShape": {"0": [160, 224, 192]},
        "training": [{"image": path} for path in listed],
        "registration_val": pairs[-held_out:],
    }
    write_json(folder / "OASIS_dataset.json", description)


def nlst_tree(folder, scan, mask, training=(1, 2), validation=range(101, 111)):
    """NLST as published: pairs of scans, masks, key points; validation also listed as training."""
    points = b"3.0,4.0,5.0\n4.5,4.0,5.0\n"
    for subject in (*training, *validation):
        for number in range(2):
            name = f"NLST_{subject:04d}_{number:04d}"
            put(folder / f"imagesTr/{name}.nii.gz", scan)
            put(folder / f"masksTr/{name}.nii.gz", mask)
            put(folder / f"keypointsTr/{name}.csv", points)
    path = "./imagesTr/NLST_{:04d}_{:04d}.nii.gz".format

    def pairs(subjects):
        return [{"fixed": path(subject, 0), "moving": path(subject, 1)} for subject in subjects]

    description = {
        "name": "NLST",
        "modality": {"0": "CT"},
        "tensorImageShape": {"0": [224, 192, 224]},
        "training_paired_images": pairs([*training, *validation]),
        "registration_val": pairs(validation),
    }
    write_json(folder / "NLST_dataset.json", description)


def content_of(folder):
    """dataset.json."""
    return json.loads((folder / "dataset.json").read_text("utf-8"))
