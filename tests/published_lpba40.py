"""LPBA40 as LONI publishes it, small: Analyze images, voxels packed, AIR transforms."""

import struct

import numpy as np
from analyze_files import write_analyze

SHAPE = (12, 14, 13)
CROP = ((2, 1), (3, 1), (0, 4))
NATIVE_SHAPE = (20, 9, 18)
NATIVE_SIZE = (0.8, 1.6, 0.9)


def air_bytes(matrix, standard, reslice, order="<", long_hashes=False):
    """AIR_Air16 field by field, as AIR.h declares it; a volume is (bits, nx, ny, nz), sizes."""
    content = struct.pack(order + "16d", *np.asarray(matrix, dtype=float).T.ravel())
    for name, (numbers, sizes) in ((b"native.img", standard), (b"delineation.img", reslice)):
        content += struct.pack(order + "128s4I3d", name, *numbers, *sizes)
    content += struct.pack(order + "128s", b"alignlinear")
    content += struct.pack(order + ("2Q" if long_hashes else "2I"), 7, 9)
    return content + struct.pack(order + "2H116s", 1, 1, b"")


def native_to_delineation():
    """A small rotation and shift, in cubic voxels of the smallest native size (0.8 mm)."""
    angle = 0.15
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[:3, :3] *= 0.8
    matrix[:3, 3] = 0.4, -0.3, 0.2
    return matrix


def write_subject(root, subject, seed=0, order=">", packed=True, shape=SHAPE):
    """The files of one subject; brain, tissues and labels as they were written."""
    random = np.random.default_rng(seed)
    brain = random.integers(50, 200, NATIVE_SHAPE).astype(np.int16)
    tissue = random.integers(0, 2, NATIVE_SHAPE).astype(np.uint8)
    tissue[4:16, 2:8, 3:14] = 3
    labels = random.choice([0, 21, 182], shape).astype(np.uint8)
    space = root / "LPBA40"
    native = space / "native_space" / subject
    named = {
        space / "delineation_space" / subject / f"{subject}.delineation.structure.label.hdr": (
            labels, (1.0, 1.0, 1.0)
        ),
        native / f"{subject}.native.brain.bfc.hdr": (brain, NATIVE_SIZE),
        native / "tissue" / f"{subject}.native.tissue.hdr": (tissue, NATIVE_SIZE),
    }  # fmt: skip
    for path, (array, size) in named.items():
        write_analyze(path, array, size, packed, order)
    transform = native / "transforms" / f"{subject}.delineation.to.native.air"
    transform.parent.mkdir()
    standard = ((16, *NATIVE_SHAPE), NATIVE_SIZE)
    content = air_bytes(
        native_to_delineation(), standard, ((8, *shape), (1.0, 1.0, 1.0)), order=order
    )
    transform.write_bytes(content)
    return brain, tissue, labels
