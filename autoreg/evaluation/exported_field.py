"""The displacement that is exported: its folds, their repair, and what is said of it."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoreg.evaluation.fields import NonDiffeomorphicVolume, ndv, voxel_displacement
from autoreg.geometry.grid import FloatArray, Geometry
from autoreg.geometry.resampling import sample_displacement_known
from autoreg.geometry.transforms import (
    Affine,
    Composite,
    DisplacementField,
)
from autoreg.io.result import FieldRecord
from autoreg.numerics.coordinates import index_grid
from autoreg.numerics.fold_scan import surely_unfolded
from autoreg.numerics.folding import folded_cells
from autoreg.numerics.jacobian import jacobian_determinant
from autoreg.numerics.unfold import Sampling, folded_nodes, unfold


@dataclass(frozen=True, eq=False)
class ExportedField:
    """A transform as it is written, and its folds.

    Attributes:
        transform: From the fixed to the moving image; all files come from this one.
        geometry: The fixed image's.
        u_mm: (D, H, W, 3) xyz LPS mm, the transform's samples on `geometry`.
        u_vox: (3, D, H, W), the same in voxels of `geometry` and relative to the initial
            alignment, to which Jacobian and NDV refer.
        volume: NDV of `u_vox`.
        folded_percent: Share of the cells of the transform's own grids that are inverted.
        repaired_voxels: Voxels of `u_mm` that the repair changed.
        repaired_maximum_mm: Largest distance by which it moved where a point goes.
    """

    transform: Composite
    geometry: Geometry
    u_mm: NDArray[np.float32]
    u_vox: Tensor
    volume: NonDiffeomorphicVolume
    folded_percent: float
    repaired_voxels: int = 0
    repaired_maximum_mm: float = 0.0

    @property
    def folds(self) -> bool:
        """Whether it folds by the strictest measures: on its own grid, or in its samples."""
        return self.folded_percent > 0 or self.volume.folded_tetrahedra > 0


def exported_field(transform: Composite, geometry: Geometry) -> ExportedField:
    """Sample a transform on the fixed image's grid, freed from isolated folds.

    A map that doesn't fold may do so, by a few tenths of a voxel, in its samples at the voxels.
    The transform's displacement is then smoothed at those few places, so that neither it nor the
    samples fold. A transform that folds in many places stays as it is, and so does one that
    holds more than one displacement field.

    Args:
        transform: From the fixed to the moving image.
        geometry: The fixed image's.
    """
    found = _measured(transform, geometry)
    fields = [t for t in transform.transforms if isinstance(t, DisplacementField)]
    affines = [t for t in transform.transforms if isinstance(t, Affine)]
    if not found.folds or len(fields) != 1 or len(affines) + 1 != len(transform.transforms):
        return found
    field, place = fields[0], transform.transforms.index(fields[0])
    before = Composite(transform.transforms[:place])
    after = Composite(transform.transforms[place + 1 :])
    to_field = field.geometry.world_to_index @ _matrix(before) @ geometry.index_to_world
    samples = Sampling(geometry.shape, torch.from_numpy(to_field), folded_nodes(found.u_vox[None]))
    u_vox, done = unfold(torch.from_numpy(field.u_vox)[None], [samples])
    if done.outcome != "repaired":
        return found
    repaired = DisplacementField(u_vox[0].numpy(), field.geometry)
    parts = (*before.transforms, repaired, *after.transforms)
    result = _measured(Composite(parts), geometry)
    to_mm = _matrix(after)[:3, :3] @ field.geometry.index_to_world[:3, :3]
    return replace(
        result,
        repaired_voxels=int((result.u_mm != found.u_mm).any(axis=-1).sum()),
        repaired_maximum_mm=_longest(repaired.u_vox - field.u_vox, to_mm),
    )


def field_record(field: ExportedField, residual_mm: NDArray[np.float32]) -> FieldRecord:
    """Describe an exported displacement.

    Args:
        field: The displacement.
        residual_mm: (D, H, W) of the inverse on the moving grid, infinite where there is none.
    """
    length_mm = np.sqrt(np.einsum("dhwc,dhwc->dhw", field.u_mm, field.u_mm))
    jacobian = jacobian_determinant(field.u_vox[None]).numpy()
    known = residual_mm[np.isfinite(residual_mm)]
    return FieldRecord(
        mean_mm=float(length_mm.mean()),
        maximum_mm=float(length_mm.max()),
        jacobian_minimum=float(jacobian.min()),
        folded_percent=field.folded_percent,
        ndv_percent=100 * field.volume.volume_vox / max(1, field.volume.voxels),
        ndv_vox=field.volume.volume_vox,
        repaired_voxels=field.repaired_voxels,
        repaired_maximum_mm=field.repaired_maximum_mm,
        inverse_residual_mean_mm=float(known.mean()) if known.size else None,
        inverse_residual_maximum_mm=float(known.max()) if known.size else None,
        inverse_missing_percent=float(100 * (1 - known.size / residual_mm.size)),
    )


def _measured(transform: Composite, geometry: Geometry) -> ExportedField:
    u_mm, _ = sample_displacement_known(transform, geometry)
    u_vox = _own_nodes(transform, geometry)
    if u_vox is not None and surely_unfolded(u_vox[None]):
        voxels = int(np.prod([n - 2 if n > 1 else 1 for n in geometry.shape]))
        unfolded = NonDiffeomorphicVolume(0.0, 0.0, max(0, voxels), 0, 0.0)
        return ExportedField(transform, geometry, u_mm, u_vox, unfolded, 0.0)
    u_vox = _relative_to_alignment(voxel_displacement(u_mm, geometry), geometry, transform)
    fields = [t for t in transform.transforms if isinstance(t, DisplacementField)]
    folds = sum(len(folded_cells(torch.from_numpy(f.u_vox)[None]).lower_vox) for f in fields)
    cells = sum(int(np.prod([n + 1 for n in f.geometry.shape])) for f in fields)
    percent = 100 * folds / max(1, cells)
    return ExportedField(transform, geometry, u_mm, u_vox, ndv(u_vox), percent)


def _own_nodes(transform: Composite, geometry: Geometry) -> Tensor | None:
    """The displacement (3, D, H, W) where it lives on the very grid and comes first, else None."""
    match transform.transforms:
        case (DisplacementField() as field, Affine()) if field.geometry is geometry:
            return torch.from_numpy(field.u_vox)
    return None


def _relative_to_alignment(u_vox: Tensor, geometry: Geometry, transform: Composite) -> Tensor:
    """What is left of a displacement once the initial alignment is undone; offsets are left out.

    With T(x) = x + u(x) in indices of the grid and L the alignment's linear part in them, this is
    L^-1 T - id: its folds are those of the deformation, also where the alignment mirrors.

    Args:
        u_vox: (3, D, H, W).
        geometry: The grid.
        transform: Its affine parts are the alignment.
    """
    linear = _matrix(transform)[:3, :3]
    to_index, to_world = geometry.world_to_index[:3, :3], geometry.index_to_world[:3, :3]
    undo = torch.from_numpy(np.linalg.inv(to_index @ linear @ to_world)).to(u_vox)
    left = torch.einsum("ij,jdhw->idhw", undo, u_vox)
    if torch.equal(undo, torch.eye(3).to(undo)):
        return left
    nodes = index_grid(u_vox.shape[1:], dtype=u_vox.dtype)[0]
    return left + torch.einsum("ij,jdhw->idhw", undo - torch.eye(3).to(undo), nodes)


def _matrix(transform: Composite) -> FloatArray:
    """The product of a transform's affine parts, 4x4."""
    matrix = np.eye(4)
    for part in transform.transforms:
        if isinstance(part, Affine):
            matrix = part.matrix @ matrix
    return matrix


def _longest(change_vox: NDArray[np.float32], to_mm: FloatArray) -> float:
    """The longest of the vectors (3, D, H, W), most of which are 0, in millimetres."""
    moved = change_vox[:, (change_vox != 0).any(axis=0)]
    return float(np.linalg.norm(to_mm @ moved, axis=0).max(initial=0))
