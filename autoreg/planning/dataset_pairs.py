"""Which pairs a prepared data set may train and validate with.

Preprocessing writes them to `<preprocessed>/<dataset>/pairs.json`, so that training needs the
prepared data set alone.
"""

from dataclasses import dataclass
from pathlib import Path

from autoreg.errors import DataError
from autoreg.io.cases import Pair, Pairing, RawDataset
from autoreg.io.records import load_record, save_record

PAIRS_FORMAT = 1
PAIRS_NAME = "pairs.json"


@dataclass(frozen=True)
class DatasetPairs:
    """Content of pairs.json.

    Attributes:
        format: Version of this record.
        dataset: Name of the data set.
        pairing: How pairs arise.
        pool: Cases whose ordered pairs are training pairs if none are listed.
        training_pairs: The pairs to train with; None: any ordered pair of `pool`.
        validation_pairs: The pairs to validate with; None: the splits decide.
    """

    format: int
    dataset: str
    pairing: Pairing
    pool: tuple[str, ...]
    training_pairs: tuple[Pair, ...] | None
    validation_pairs: tuple[Pair, ...] | None


def save_dataset_pairs(preprocessed: Path, dataset: RawDataset) -> None:
    """Write pairs.json of a data set.

    Args:
        preprocessed: The folder of preprocessed data.
        dataset: The raw data set.
    """
    record = DatasetPairs(
        format=PAIRS_FORMAT,
        dataset=dataset.name,
        pairing=dataset.pairing,
        pool=dataset.pool,
        training_pairs=dataset.training_pairs,
        validation_pairs=dataset.validation_pairs,
    )
    save_record(record, preprocessed / dataset.name / PAIRS_NAME)


def load_dataset_pairs(preprocessed: Path, dataset: str) -> DatasetPairs:
    """Read pairs.json of a data set.

    Args:
        preprocessed: The folder of preprocessed data.
        dataset: Name of the data set.

    Raises:
        DataError: if it is missing, malformed or of another format.
    """
    path = preprocessed / dataset / PAIRS_NAME
    if not path.exists():
        raise DataError(f"{path}: no such file; run autoreg_preprocess, which writes it")
    record = load_record(DatasetPairs, path, DataError)
    if record.format != PAIRS_FORMAT:
        raise DataError(
            f"{path}: format {record.format} is not {PAIRS_FORMAT}, the one this version reads; "
            "run autoreg_preprocess again"
        )
    return record
