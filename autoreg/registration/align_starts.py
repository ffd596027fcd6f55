"""Where the alignment starts: headers, centres, and rotations all around."""

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from autoreg.geometry.grid import FloatArray, Geometry
from autoreg.registration.align_levels import Level
from autoreg.registration.align_optimise import optimise
from autoreg.registration.align_similarity import PairLevel, Similarity, similarities

# The start from the headers is believed if its end explains so much and is turned so little.
_GOOD_RATIO = 0.8
_SMALL_TURN_DEG = 20.0
# Between neighbouring starting rotations; Gauss-Newton finds its way from half of it and more.
_ROTATION_STEP_DEG = 25.0
# Samples of each image for the scan over rotations, and for the optimisation of the starts.
_SCAN_SAMPLES = 800
_START_SAMPLES = 2_000
# Optimised after the scan, and how far apart they are at least.
_MOST_STARTS = 5
_APART_DEG = 30.0
# Turned further than this from the headers, a placement must explain clearly more.
_FAR_DEG = 90.0
_CLEARLY_MORE = 1.03


@dataclass(frozen=True, eq=False)
class Candidate:
    """A rigid placement that was reached from a start.

    Attributes:
        start: What it started from.
        matrix: 4x4, points of the fixed image -> points of the moving image.
        similarity: There.
        steps: Gauss-Newton steps taken.
        turned_deg: Rotation away from the headers' orientation.
    """

    start: str
    matrix: FloatArray
    similarity: Similarity
    steps: int
    turned_deg: float

    @property
    def merit(self) -> float:
        """By what placements are ranked: information, less for one that is turned far."""
        far = self.turned_deg > _FAR_DEG
        return self.similarity.information / (_CLEARLY_MORE if far else 1.0)


def header_placement(fixed: Geometry, moving: Geometry) -> FloatArray:
    """The identity; for two images of one layer the smallest motion that joins their planes."""
    matrix = np.eye(4)
    if fixed.shape[0] > 1:
        return matrix
    normal, other = plane_normal(fixed), plane_normal(moving)
    if normal @ other < 0:
        other = -other
    axis = np.cross(normal, other)
    if np.linalg.norm(axis) > 1e-6:
        turn = np.arctan2(np.linalg.norm(axis), normal @ other)
        turning = Rotation.from_rotvec(axis / np.linalg.norm(axis) * turn).as_matrix()
        matrix = about_centres(turning, fixed.centre_mm, fixed.centre_mm)
    gap = (moving.centre_mm - matrix[:3, :3] @ fixed.centre_mm - matrix[:3, 3]) @ other
    matrix[:3, 3] += gap * other
    return matrix


def plane_normal(geometry: Geometry) -> FloatArray:
    """Unit normal of the layers, (3,): at right angles to the rows and columns."""
    normal = np.cross(geometry.index_to_world[:3, 1], geometry.index_to_world[:3, 2])
    return np.asarray(normal / np.linalg.norm(normal), dtype=np.float64)


def about_centres(linear: FloatArray, fixed_mm: FloatArray, moving_mm: FloatArray) -> FloatArray:
    """The map with a linear part that takes one centre to the other, 4x4."""
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = moving_mm - linear @ fixed_mm
    return matrix


def rotations(largest_deg: float, normal: FloatArray | None) -> FloatArray:
    """Rotations about evenly spread up to an angle, nearest first, without the identity.

    Args:
        largest_deg: The largest angle.
        normal: The only axis in an image of one layer.

    Returns:
        (R, 3, 3).
    """
    step = np.deg2rad(_ROTATION_STEP_DEG)
    found = [np.zeros((0, 3))]
    for angle in np.arange(step, np.deg2rad(largest_deg) + 1e-6, step):
        if normal is not None:
            found.append(np.stack([normal, -normal]) * angle)
            continue
        # Rotations by one angle form a sphere of this radius; each takes a hexagon of it.
        area = 4 * np.pi * (2 * np.sin(angle / 2)) ** 2
        count = max(1, round(area / (step**2 * np.sqrt(3) / 2)))
        found.append(_spread_axes(count) * angle)
    vectors = np.concatenate(found)
    return np.asarray(Rotation.from_rotvec(vectors).as_matrix().reshape(-1, 3, 3))


def _spread_axes(count: int) -> FloatArray:
    """Points evenly spread over the unit sphere (Fibonacci's spiral), (count, 3)."""
    number = np.arange(count) + 0.5
    z = 1 - 2 * number / count
    turn = number * np.pi * (3 - np.sqrt(5))
    flat = np.sqrt(1 - z * z)
    return np.stack([flat * np.cos(turn), flat * np.sin(turn), z], axis=1)


def find_rigid(
    pair: PairLevel,
    headers: FloatArray,
    boxes: FloatArray,
    largest_deg: float,
    steps: int,
    normal: FloatArray | None,
) -> list[Candidate]:
    """Rigid placements from one or several starts, best first.

    The headers come first. If their end explains little or is turned a lot, the centres of the
    foregrounds and of the boxes follow, and the most promising of many rotations about the
    foregrounds' centres.

    Args:
        pair: At the coarsest level, with rigid generators.
        headers: 4x4, the headers' placement.
        boxes: 4x4, the headers' orientation with the boxes' centres on each other.
        largest_deg: Of the rotations; 0: the headers only.
        steps: Gauss-Newton steps at most, for each start.
        normal: Of an image of one layer.
    """
    light = _thinned_pair(pair, _START_SAMPLES)

    def reach(start: str, matrix: FloatArray) -> Candidate:
        end, found, taken = optimise(light, matrix, steps)
        return Candidate(start, end, found, taken, turned_deg(headers, end))

    candidates = [reach("headers", headers)]
    first = candidates[0]
    good = first.similarity.ratio >= _GOOD_RATIO and first.turned_deg <= _SMALL_TURN_DEG
    if good or largest_deg == 0:
        return candidates
    centres = foreground_centres(pair, headers[:3, :3])
    candidates += [reach("foreground centres", centres), reach("box centres", boxes)]
    turned = _promising(pair, headers, rotations(largest_deg, normal))
    candidates += [reach(f"rotation {n + 1}", matrix) for n, matrix in enumerate(turned)]
    return sorted(candidates, key=lambda candidate: -candidate.merit)


def foreground_centres(pair: PairLevel, linear: FloatArray) -> FloatArray:
    """The map with a linear part that lays the foregrounds' centres on each other, 4x4."""
    return about_centres(linear, *pair.centres_mm)


def turned_deg(first: FloatArray, second: FloatArray) -> float:
    """Angle between the rotations in two 4x4 maps."""
    linear = second[:3, :3] @ np.linalg.inv(first[:3, :3])
    u, _, v = np.linalg.svd(linear)
    return float(np.rad2deg(Rotation.from_matrix(u @ v).magnitude()))


def _promising(
    pair: PairLevel, headers: FloatArray, turns: NDArray[np.float64]
) -> list[FloatArray]:
    """The best of many rotations about the foregrounds' centres that are far from each other."""
    if not len(turns):
        return []
    light = _thinned_pair(pair, _SCAN_SAMPLES)
    matrices = np.stack([foreground_centres(pair, turn @ headers[:3, :3]) for turn in turns])
    merits = np.concatenate(
        [similarities(light, part)[:, 0] for part in np.array_split(matrices, -(-len(turns) // 64))]
    )
    picked: list[FloatArray] = []
    for number in np.argsort(-merits, kind="stable"):
        matrix = matrices[number]
        if all(turned_deg(matrix, other) >= _APART_DEG for other in picked):
            picked.append(matrix)
        if len(picked) == _MOST_STARTS:
            break
    return picked


def _thinned_pair(pair: PairLevel, samples: int) -> PairLevel:
    channels = tuple(
        (_thinned(fixed, samples), _thinned(moving, samples)) for fixed, moving in pair.channels
    )
    return dataclasses.replace(pair, channels=channels)


def _thinned(level: Level, samples: int) -> Level:
    every = max(1, -(-len(level.values) // samples))
    classes = np.unique(level.classes[::every], return_inverse=True)[1].astype(np.int64)
    return dataclasses.replace(
        level,
        points_mm=level.points_mm[::every],
        values=level.values[::every],
        classes=classes,
        foreground=level.foreground[::every],
    )
