"""What is asked of the initial alignment."""

from dataclasses import dataclass
from typing import Literal, get_args

from autoreg.errors import UsageError

AlignmentKind = Literal["none", "centres", "rigid", "affine"]


@dataclass(frozen=True)
class AlignmentSettings:
    """How two images are brought together before anything bends.

    Attributes:
        kind: "none": the headers are trusted. "centres": a shift alone, which lays the centres
            of the foregrounds on each other where that is better than the headers. "rigid":
            rotation and shift. "affine": rigid first, then scales and shears as well.
        max_rotation_deg: How far starting rotations turn away from the headers' orientation when
            the start from there ends poorly; 0: never another start. Smaller values are faster
            and protect against mistaking one side of a nearly symmetric object for the other.
        samples: Voxels that are wanted in the smaller foreground at the level of the starts, at
            the middle level, and at the finest one; they decide how far the images are shrunk.
        steps: Gauss-Newton steps at most, on each level.

    Raises:
        UsageError: if a value is impossible.
    """

    kind: AlignmentKind = "affine"
    max_rotation_deg: float = 180.0
    samples: tuple[int, int, int] = (3_000, 12_000, 40_000)
    steps: tuple[int, int, int] = (20, 12, 8)

    def __post_init__(self) -> None:
        if self.kind not in get_args(AlignmentKind):
            kinds = ", ".join(get_args(AlignmentKind))
            raise UsageError(f'alignment "{self.kind}" is unknown; choose one of {kinds}')
        if not 0 <= self.max_rotation_deg <= 180:
            raise UsageError(f"max_rotation_deg is 0 to 180 degrees, found {self.max_rotation_deg}")
        if min(self.samples) < 100 or min(self.steps) < 1:
            raise UsageError(
                "the alignment wants at least 100 samples and 1 step on each level, found "
                f"samples {self.samples} and steps {self.steps}"
            )
