"""Where the optimisation of a displacement field begins: an alignment, or a network's answer."""

import time
from dataclasses import dataclass, replace

import numpy as np

from autoreg.errors import AutoregError, DataError
from autoreg.geometry.foreground import coarse_foreground
from autoreg.geometry.grid import FloatArray
from autoreg.geometry.transforms import Affine, Composite, DisplacementField, Transform
from autoreg.geometry.volume import Volume
from autoreg.registration.align import Alignment, align
from autoreg.registration.align_settings import AlignmentKind, AlignmentSettings
from autoreg.registration.align_starts import header_placement
from autoreg.registration.contrast import Agreement, CoarsePair, coarse_pair

# By so much the images must agree worse in one placement for another one to be taken instead.
_CLEARLY_WORSE = 0.02
# Points that the affine part of a transform is fitted to, at most.
_POINTS = 20_000
# Of their number: how much the identity counts beside them, so that few or flat points suffice.
_RIDGE = 1e-3
# Parts that shrink a volume below this share, or turn it inside out, are nonsense of the network.
_SMALLEST_VOLUME = 0.1


@dataclass(frozen=True, eq=False)
class ImagePair:
    """Two images to be registered.

    Attributes:
        fixed: The fixed image.
        moving: The moving image.
        fixed_mask: Where the fixed image counts; None: everywhere.
        moving_mask: Likewise of the moving image.
        coarse: Both, shrunken.
    """

    fixed: Volume
    moving: Volume
    fixed_mask: Volume | None
    moving_mask: Volume | None
    coarse: CoarsePair

    @classmethod
    def of(
        cls,
        fixed: Volume,
        moving: Volume,
        fixed_mask: Volume | None = None,
        moving_mask: Volume | None = None,
    ) -> "ImagePair":
        """With the coarse copies."""
        coarse = coarse_pair(fixed, moving, fixed_mask, moving_mask)
        return cls(fixed, moving, fixed_mask, moving_mask, coarse)


@dataclass(frozen=True, eq=False)
class Start:
    """A first placement of two images.

    Attributes:
        initial: From points of the fixed to points of the moving image.
        displacement: What precedes it; None: nothing.
        agreement: How the images agree so.
        alignment: The report of the initial alignment; None where a network's answer is taken.
        seconds: Wall time of the alignment, also where it was only compared with.
        warnings: What a reader should know before trusting the result.
        otherwise: The initial alignment, where a network's answer was taken instead.
    """

    initial: Affine
    displacement: Transform | None
    agreement: Agreement
    alignment: Alignment | None
    seconds: float
    warnings: tuple[str, ...]
    otherwise: "Start | None" = None


def aligned_start(pair: ImagePair, kind: AlignmentKind = "affine") -> Start:
    """Begin with an alignment, unless the headers' placement is clearly better.

    Better by the local correlation, a second measure beside the alignment's own.

    Args:
        pair: The images.
        kind: Of the alignment.

    Raises:
        DataError: see `align`.
    """
    begin = time.perf_counter()
    found = _aligned(pair, kind)
    after = pair.coarse.agreement(found.transform)
    if found.kept == "headers" or 0 in (found.overlap_before, found.similarity_before):
        return _of_alignment(found, after, begin)
    placement = header_placement(pair.fixed.geometry, pair.moving.geometry)
    headers = pair.coarse.agreement(Affine(placement))
    if not clearly_better(headers, after):
        return _of_alignment(found, after, begin)
    note = (
        f"the initial alignment ({kind}) was dropped for the headers' placement, in which the "
        f"images agree better: local correlation {headers.absolute:.3f} against "
        f"{after.absolute:.3f} (absolute values); look at the result"
    )
    # Once more, for what is to be warned of in this placement rather than in the dropped one.
    trusted = replace(_aligned(pair, "none"), starts=found.starts, stages=found.stages)
    return _of_alignment(trusted, headers, begin, note)


def network_start(network: Composite, pair: ImagePair, kind: AlignmentKind = "affine") -> Start:
    """Begin with a network's answer, unless the images agree clearly better after an alignment.

    Args:
        network: Its transform: a displacement field, then an affine map.
        pair: The images.
        kind: Of the alignment that it is compared with.

    Raises:
        DataError: if neither leaves anything of the images to compare.
    """
    begin = time.perf_counter()
    given, beside = pair.coarse.agreement(network), not _overlap(network, pair)
    try:
        aligned = aligned_start(pair, kind)
    except AutoregError as error:
        if not beside:
            return _of_network(network, pair, given, begin)
        raise DataError(
            "the network's transform leaves the images without overlap, and they could not be "
            f"aligned instead: {error}"
        ) from error
    if not (beside or clearly_better(aligned.agreement, given)):
        return replace(_of_network(network, pair, given, begin), otherwise=aligned)
    note = (
        "the network's answer was dropped for an initial alignment, in which the images agree "
        f"better: local correlation {aligned.agreement.absolute:.3f} against {given.absolute:.3f} "
        "(absolute values); has the model seen such images?"
    )
    seconds = time.perf_counter() - begin
    return replace(aligned, seconds=seconds, warnings=(note, *aligned.warnings))


def clearly_better(one: Agreement, other: Agreement) -> bool:
    """Whether the images agree so much better that the other placement is not to be believed."""
    if not one.windows:  # nothing is known of it: masks and label maps have no contrast inside
        return False
    if not other.windows:
        return True
    return one.absolute > other.absolute + _CLEARLY_WORSE and one.windows >= other.windows / 2


def _aligned(pair: ImagePair, kind: AlignmentKind) -> Alignment:
    return align(
        pair.fixed,
        pair.moving,
        AlignmentSettings(kind=kind),
        fixed_mask=pair.fixed_mask,
        moving_mask=pair.moving_mask,
    )


def _of_alignment(found: Alignment, agreement: Agreement, begin: float, *notes: str) -> Start:
    seconds = time.perf_counter() - begin
    return Start(found.transform, None, agreement, found, seconds, (*found.warnings, *notes))


def _overlap(network: Composite, pair: ImagePair) -> bool:
    """Whether any of the fixed image's foreground lands in the moving image."""
    points = network.map_points(_foreground_points(pair.fixed, pair.fixed_mask))
    return bool(pair.moving.geometry.contains(points).any())


def _of_network(network: Composite, pair: ImagePair, agreement: Agreement, begin: float) -> Start:
    _, rest = parts(network)
    initial = _affine_part(network, rest, pair)
    displacement = Composite((*network.transforms, initial.inverse()))
    seconds = time.perf_counter() - begin
    return Start(initial, displacement, agreement, None, seconds, ())


def parts(network: Composite) -> tuple[DisplacementField, Affine]:
    """What a network's transform consists of."""
    first, rest = network.transforms
    if not isinstance(first, DisplacementField) or not isinstance(rest, Affine):
        raise TypeError("a network's transform is a displacement field and an affine map")
    return first, rest


def _affine_part(network: Composite, rest: Affine, pair: ImagePair) -> Affine:
    """The affine map that is nearest to a transform, in least squares over the foreground."""
    points = _foreground_points(pair.fixed, pair.fixed_mask)
    before = rest.inverse().map_points(network.map_points(points))
    centre, middle = points.mean(axis=0), before.mean(axis=0)
    apart, moved = points - centre, before - middle
    spread = np.trace(apart.T @ apart) / 3
    ridge = max(_RIDGE * spread, 1e-6) * np.eye(3)  # a single point has no spread
    linear = np.linalg.solve(apart.T @ apart + ridge, apart.T @ moved + ridge).T
    if np.linalg.det(linear) < _SMALLEST_VOLUME:
        linear = np.eye(3)
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = linear, middle - linear @ centre
    return Affine(rest.matrix @ matrix)


def _foreground_points(fixed: Volume, mask: Volume | None) -> FloatArray:
    """World points (N, 3) inside the mask, or inside any channel's foreground."""
    if mask is not None:
        inside = np.flatnonzero(mask.single)
        spread = inside[:: -(-len(inside) // _POINTS) or 1]
        index = np.stack(np.unravel_index(spread, mask.single.shape), axis=-1)
    else:
        found = [coarse_foreground(channel) for channel in fixed.array]
        index = np.concatenate([np.argwhere(inside) * steps for inside, steps in found])
        index = index[:: -(-len(index) // _POINTS)]
    return fixed.geometry.to_world(index.astype(np.float64))
