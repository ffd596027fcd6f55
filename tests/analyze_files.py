"""Analyze 7.5 images as LONI publishes them: NAME.hdr beside NAME.img.gz, 4-D with one volume."""

import gzip

import numpy as np
from nibabel.analyze import AnalyzeHeader, AnalyzeImage


def write_analyze(header_path, array, voxel_size=(1.0, 1.0, 1.0), packed=True, order="<"):
    """Write (x, y, z) numbers; the header has a fourth axis of length 1."""
    header_path.parent.mkdir(parents=True, exist_ok=True)
    header = AnalyzeHeader(endianness=order)
    header.set_data_shape((*array.shape, 1))
    header.set_data_dtype(array.dtype)
    header.set_zooms((*voxel_size, 1.0))
    header_path.write_bytes(header.binaryblock)
    content = array.astype(array.dtype.newbyteorder(order)).tobytes(order="F")
    if packed:
        header_path.with_suffix(".img.gz").write_bytes(gzip.compress(content, 1))
    else:
        header_path.with_suffix(".img").write_bytes(content)


def nibabel_saves(header_path, array):
    """The same by nibabel itself, to be sure of the layout."""
    AnalyzeImage(np.asarray(array)[..., None], None).to_filename(str(header_path))
