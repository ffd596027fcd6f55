"""Whether a training ends before its last epoch because nothing gets better any more."""

from collections.abc import Sequence

from autoreg.plan import Plan
from autoreg.training.progress import EpochRecord
from autoreg.training.validation import score


def has_stopped_early(plan: Plan, records: Sequence[EpochRecord]) -> bool:
    """Whether the last `early_stopping` validations are all no better than one before them.

    Validations count from the epoch on in which the last stage of the training has begun: each
    stage (the last level, augmentation, group consistency with its full weight) changes what is
    minimised, and a training must not end before it.

    Args:
        plan: How many validations are waited for (0: for ever), and the stages.
        records: All epochs so far.
    """
    patience, first = plan.training.early_stopping, _last_stage(plan)
    scores = [score(r.validation) for r in records if r.validation and r.epoch >= first]
    if patience == 0 or len(scores) <= patience:
        return False
    return min(scores[-patience:]) >= min(scores[:-patience])


def _last_stage(plan: Plan) -> int:
    """The epoch, counted from 0, from which on nothing changes any more."""
    training, group = plan.training, plan.training.group_consistency
    begins = [0, training.augmentation.from_epoch]
    if plan.network.without_last_level() is not None:
        begins.append(training.shallow_epochs)
    if group.weight > 0:
        begins += [group.from_epoch, group.from_epoch + group.ramp_epochs]
    return max(begin for begin in begins if begin < training.epochs)
