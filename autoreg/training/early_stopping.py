"""Whether a training ends before its last epoch because nothing gets better any more."""

from collections.abc import Sequence

from autoreg.training.progress import EpochRecord
from autoreg.training.validation import score
from autoreg.training_plan import TrainingPlan


def has_stopped_early(training: TrainingPlan, records: Sequence[EpochRecord]) -> bool:
    """Whether the last `early_stopping` validations are all no better than one before them.

    The validation before training does not count: a network may have to get worse first.

    Args:
        training: How many validations are waited for; 0: never.
        records: All epochs so far.
    """
    patience = training.early_stopping
    scores = [score(record.validation) for record in records if record.validation is not None]
    if patience == 0 or len(scores) <= patience:
        return False
    return min(scores[-patience:]) >= min(scores[:-patience])
