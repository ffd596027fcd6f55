"""best_configuration.json: everything that was compared, and the choice."""

from dataclasses import dataclass

from autoreg.inference.compare_io_settings import Setting
from autoreg.inference.compare_io_table import Mean
from autoreg.inference.find_best_choice import Duel

BEST_FORMAT = 1


@dataclass(frozen=True)
class PairRecord:
    """One pair by one candidate.

    Attributes:
        scores: By metric, as in evaluation.csv (ratios as fractions); null: no finite value.
        register_seconds: Of its registration, without reading and writing.
        device: Where it was computed.
    """

    scores: dict[str, float | None]
    register_seconds: float
    device: str


@dataclass(frozen=True)
class CandidateRecord:
    """One way to register the pairs.

    Attributes:
        name: `<configuration>/<setting>`, or "without_network".
        configuration: Whose weights; None: no network.
        setting: Of instance optimisation and refinement; None without a network.
        means: By metric, over the pairs with a finite value.
        register_seconds: Mean; None where the pairs were not all computed on one device.
        pairs: Each of them.
        failures: Pairs without a result, with the reason.
    """

    name: str
    configuration: str | None
    setting: Setting | None
    means: dict[str, Mean]
    register_seconds: float | None
    pairs: dict[str, PairRecord]
    failures: dict[str, str]


@dataclass(frozen=True)
class BestConfiguration:
    """Content of best_configuration.json.

    Attributes:
        format: Version of this record.
        autoreg_version: Of the package that compared.
        dataset: Name of the data set.
        folds: The pairs of each fold.
        held_out_pairs: How many there are, taken or not.
        measure: By what it was decided: a metric of evaluation.csv.
        rule: How, in words.
        best: Name of the chosen candidate.
        configuration: Its configuration; None: no network.
        setting: Its setting; None without a network.
        reason: The outcome in words.
        candidates: From simple to complex.
        comparisons: By which it was decided, in their order.
        notes: What deserves a look.
        commands: What to type, by its purpose.
    """

    format: int
    autoreg_version: str
    dataset: str
    folds: dict[str, tuple[str, ...]]
    held_out_pairs: int
    measure: str
    rule: str
    best: str
    configuration: str | None
    setting: Setting | None
    reason: str
    candidates: tuple[CandidateRecord, ...]
    comparisons: tuple[Duel, ...]
    notes: tuple[str, ...]
    commands: dict[str, tuple[str, ...]]
