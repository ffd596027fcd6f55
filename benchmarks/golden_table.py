"""What the comparisons with golden data share: a table of deviations, printed as it grows."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Table:
    """Deviations so far.

    Attributes:
        tolerances: Largest deviation of each kind of quantity.
        width: Of the column of quantities.
        rows: Deviation and tolerance of each quantity.
    """

    tolerances: Mapping[str, float]
    width: int = 44
    rows: list[tuple[float, float]] = field(default_factory=list)

    def add(self, case: str, name: str, kind: str, deviation: float) -> None:
        """Add and print one line.

        Args:
            case: Of the golden data.
            name: Of the quantity.
            kind: Which tolerance holds.
            deviation: From the golden value.
        """
        tolerance = self.tolerances[kind]
        self.rows.append((deviation, tolerance))
        verdict = "ok" if deviation <= tolerance else "FAILS"
        print(f"{case:20} {name:{self.width}} {deviation:10.2e} {tolerance:8.0e}  {verdict}")

    @property
    def failures(self) -> int:
        """Number of quantities beyond their tolerance."""
        return sum(not deviation <= tolerance for deviation, tolerance in self.rows)

    def close(self) -> int:
        """Print how many there are; 1 if one is beyond its tolerance, else 0: the exit status."""
        print(f"{self.failures} of {len(self.rows)} quantities beyond their tolerance")
        return 1 if self.failures else 0
