"""What to type after a comparison: to predict with the choice, to train it on all cases."""

from collections.abc import Sequence

from autoreg.inference.find_best import Found
from autoreg.inference.find_best_commands import (
    INPUT,
    CommandContext,
    override_flags,
    predict_command,
    train_command,
)
from autoreg.inference.find_best_contest import TrainedConfiguration, trained_fold
from autoreg.training.splits import ALL

Sections = list[tuple[str, tuple[str, ...]]]


def recommended(found: Found, context: CommandContext) -> Sections:
    """The commands, each group with what it is for.

    Args:
        found: The outcome.
        context: How commands name data set and folders.
    """
    contest, best = found.request.contest, found.choice.best
    hint = f" ({INPUT}: your folder or file of pairs)" * (
        not contest.raw.test_pairs and not contest.raw.validation_pairs
    )
    if best.configuration is None:
        command = predict_command(context, contest.raw, ["--without-model"])
        return [(f"predict without a network{hint}", (command,))]
    model = next(m for m in contest.models if m.name == best.configuration)
    fold = trained_fold(model, contest.folds[0].name)
    if ALL in model.checkpoints:
        return [(f"predict with the weights trained on all cases{hint}",
                 (_predict(found, context, model, ALL),))]  # fmt: skip
    purpose = f"predict now, with the weights of fold {fold}{hint}"
    sections = [(purpose, (_predict(found, context, model, fold),))]
    return sections + ([] if contest.is_listed else _all_cases(found, context, model))


def _all_cases(found: Found, context: CommandContext, model: TrainedConfiguration) -> Sections:
    flags, problem = override_flags(model.plan, context.paths.preprocessed)
    purpose = "or train on all cases first"
    if problem:
        purpose += f" (note: {problem})"
    train = train_command(context, model.name, ALL, flags)
    return [(purpose, (train, _predict(found, context, model, ALL)))]


def _predict(found: Found, context: CommandContext, model: TrainedConfiguration, fold: str) -> str:
    checkpoint = found.request.checkpoint
    flags: Sequence[str] = [
        *("-m", str(model.folder.absolute()), "--fold", fold),
        *(() if checkpoint is None else ("--checkpoint", checkpoint)),
        *found.choice.best.setting.flags,
    ]
    return predict_command(context, found.request.contest.raw, flags)
