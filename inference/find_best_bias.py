"""By what a comparison favours some of its candidates, in words."""

from collections.abc import Callable

from autoreg.inference.find_best import Found
from autoreg.inference.find_best_contest import Contest, TrainedConfiguration, trained_fold
from autoreg.training_plan import SupervisionPlan

_BEST_WEIGHTS = "checkpoint_best.pt"
# By the measure: its name, what was learnt from, and the value of the plan that says so.
_LEARNT: dict[str, tuple[str, str, str, Callable[[SupervisionPlan], float]]] = {
    "dice": ("Dice", "label maps", "dice_weight", lambda plan: plan.dice_weight),
    "tre_mean_mm": ("TRE", "landmarks", "landmark_weight", lambda plan: plan.landmark_weight),
}


def bias_notes(found: Found) -> list[str]:
    """What was trained for the measure, and whose weights were chosen on the same cases."""
    contest = found.request.contest
    return [*_trained_for(contest, found.measure), *_chosen_on_the_same_cases(contest)]


def _trained_for(contest: Contest, measure: str) -> list[str]:
    if measure not in _LEARNT:
        return []
    title, source, value, weight = _LEARNT[measure]
    names = [m.name for m in contest.models if weight(m.plan.training.supervision) > 0]
    if not names:
        return []
    note = (
        f"{', '.join(names)}: trained on {source} (training.supervision.{value}), and {title} "
        "decides: a gain in it is partly what was asked for, and says less about places without "
        f"{source} than that of a configuration trained on images alone. Look at the other "
        "metrics, too."
    )
    return [note]


def _chosen_on_the_same_cases(contest: Contest) -> list[str]:
    names = [m.name for m in contest.models if _BEST_WEIGHTS in _weights(contest, m)]
    if not names:
        return []
    note = (
        f"{', '.join(names)}: {_BEST_WEIGHTS} is of the epoch that was best on pairs of the same "
        "held-out cases, so that its scores are a little too good, also against registration "
        "without a network. Final weights (--checkpoint final) are the last epoch's, whatever it "
        "scored."
    )
    return [note]


def _weights(contest: Contest, model: TrainedConfiguration) -> set[str]:
    return {model.checkpoints[trained_fold(model, fold.name)].name for fold in contest.folds}
