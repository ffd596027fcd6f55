"""The state of a training: from scratch, from a pretrained model, or from a checkpoint."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from autoreg.errors import CheckpointError
from autoreg.network_plan import NetworkPlan
from autoreg.networks.base import RegistrationNetwork
from autoreg.networks.factory import build_network
from autoreg.networks.gradicon import GradICON
from autoreg.networks.precision import set_precision
from autoreg.plan import Plan
from autoreg.training.batch_norm import prepare_batch_norm
from autoreg.training.checkpoint import (
    Checkpoint,
    EpochSoFar,
    ResumeState,
    build_trained,
    load_checkpoint,
)
from autoreg.training.comparison import weight_differences
from autoreg.training.model_folder import find_checkpoint, trained_folds
from autoreg.training.processes import ALONE, Processes
from autoreg.training.progress import EpochRecord, ValidationSummary
from autoreg.training.splits import FoldNames


@dataclass(eq=False)
class TrainingState:
    """All that changes while training.

    Attributes:
        network: In training mode, on the device.
        levels: Levels that it has.
        optimiser: Of its parameters.
        scaler: Of float16's gradients; None for other precisions.
        epoch: Completed epochs.
        best: Lowest validation score so far.
        initial: Validation before the first epoch; None until it has been done.
        records: All epochs so far.
        epoch_so_far: Of the running epoch.
        names: Of the fold's cases or pairs.
        is_pretrained: Whether the network before training may be the best one.
    """

    network: RegistrationNetwork
    levels: int
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None
    epoch: int = 0
    best: float | None = None
    initial: ValidationSummary | None = None
    records: list[EpochRecord] = field(default_factory=list)
    epoch_so_far: EpochSoFar = EpochSoFar()  # noqa: RUF009 - frozen
    names: FoldNames = FoldNames()  # noqa: RUF009 - frozen
    is_pretrained: bool = False

    @property
    def step(self) -> int:
        """Steps made in the running epoch."""
        return len(self.epoch_so_far.steps)


def new_state(plan: Plan, device: torch.device, processes: Processes = ALONE) -> TrainingState:
    """From scratch: without the last level if the plan has a first stage.

    Args:
        plan: Network, stages and seed.
        device: Where to train.
        processes: That train together.
    """
    first = plan.network.without_last_level() if plan.training.shallow_epochs > 0 else None
    network = plan.network if first is None else first
    return _state(_seeded_network(plan, network), network.levels, plan, device, processes)


def load_pretrained(plan: Plan, folder: Path) -> Checkpoint:
    """The checkpoint of another model, if a training by this plan can start from it.

    Args:
        plan: The new training's plan.
        folder: Of the pretrained or imported model, which has one fold; or of one of its folds.

    Returns:
        The checkpoint, in memory.

    Raises:
        CheckpointError: if there is no checkpoint, or more than one fold to choose from, or its
            network is not the plan's.
    """
    path = _find_pretrained(folder)
    checkpoint = load_checkpoint(path)
    differences = weight_differences(checkpoint.plan, plan, only=("network",))
    channels = (len(checkpoint.plan.fixed_modalities), len(plan.fixed_modalities))
    if channels[0] != channels[1]:
        differences.append(f"the number of channels was {channels[0]} and is now {channels[1]}")
    levels = plan.network.levels
    if checkpoint.levels != levels:
        differences.append(f"{checkpoint.levels} levels were trained and {levels} are needed")
    if differences:
        raise CheckpointError(
            f"--pretrained {path}: its network is not that of configuration "
            f'"{plan.configuration}": {"; ".join(differences)}. Train a configuration with the '
            "same network (add one to plans.json), or train from scratch"
        )
    build_trained(checkpoint, str(path))  # damaged weights show now, before anything is replaced
    return checkpoint


def _find_pretrained(folder: Path) -> Path:
    folds = tuple(trained_folds(folder))
    if len(folds) > 1:
        raise CheckpointError(
            f"--pretrained {folder}: this model has the folds {', '.join(folds)}; name the one to "
            f"start from: --pretrained {folder / f'fold_{folds[0]}'}"
        )
    if not folds and folder.name.startswith("fold_"):
        return find_checkpoint(folder.parent, folder.name.removeprefix("fold_"))
    return find_checkpoint(folder)


def pretrained_state(
    plan: Plan, checkpoint: Checkpoint, device: torch.device, processes: Processes = ALONE
) -> TrainingState:
    """From the weights of another model, all levels at once.

    Args:
        plan: The new training's plan.
        checkpoint: From `load_pretrained`.
        device: Where to train.
        processes: That train together.
    """
    network = build_trained(replace(checkpoint, plan=plan), "the pretrained model")
    state = _state(network, checkpoint.levels, plan, device, processes)
    state.is_pretrained = True
    return state


def resumed_state(
    plan: Plan, checkpoint: Checkpoint, device: torch.device, processes: Processes = ALONE
) -> TrainingState:
    """From checkpoint_latest.pt.

    Args:
        plan: The plan, which is the checkpoint's.
        checkpoint: With its resume state.
        device: Where to train.
        processes: That train together.

    Raises:
        CheckpointError: if the checkpoint cannot be resumed from.
    """
    resume = checkpoint.resume
    if resume is None:
        raise CheckpointError("the checkpoint holds no optimiser: it cannot be continued from")
    network = build_trained(checkpoint, "checkpoint_latest.pt")
    state = _state(network, checkpoint.levels, plan, device, processes)
    state.optimiser.load_state_dict(resume.optimiser)
    if state.scaler is not None:
        state.scaler.load_state_dict(resume.scaler)
    state.epoch, state.best = checkpoint.epoch, resume.best
    state.initial, state.records = resume.initial, list(resume.records)
    state.epoch_so_far, state.names = resume.epoch_so_far, resume.names
    state.is_pretrained = resume.is_pretrained
    return state


def add_last_level(
    state: TrainingState, plan: Plan, device: torch.device, processes: Processes = ALONE
) -> None:
    """The second stage: the last level joins, with a new optimiser, as published.

    Its output starts at zero, so that the network's map stays what it was.

    Args:
        state: Of a training without its last level; changed in place.
        plan: Network, learning rate and seed.
        device: Where to train.
        processes: That train together.
    """
    network = _seeded_network(plan, plan.network)
    if not isinstance(network, GradICON):
        raise TypeError("only a cascade gets its last level later")
    network.load_without_last_level(state.network.state_dict())
    state.network = _prepared(network, plan, device, processes)
    state.levels = plan.network.levels
    state.optimiser = _optimiser(state.network, plan)


def as_checkpoint(
    state: TrainingState, plan: Plan, fold: str, *, resumable: bool = False
) -> Checkpoint:
    """The state as a checkpoint.

    Args:
        state: Of the training.
        plan: It is trained by.
        fold: "0", ... or "all".
        resumable: Whether the training shall be able to go on from it; it triples the size.
    """
    weights = state.network.state_dict()
    resume = _resume_state(state) if resumable else None
    return Checkpoint(plan, fold, state.levels, state.epoch, weights, resume)


def _resume_state(state: TrainingState) -> ResumeState:
    return ResumeState(
        optimiser=state.optimiser.state_dict(),
        scaler={} if state.scaler is None else state.scaler.state_dict(),
        best=state.best,
        initial=state.initial,
        records=tuple(state.records),
        epoch_so_far=state.epoch_so_far,
        names=state.names,
        is_pretrained=state.is_pretrained,
    )


def _state(
    network: RegistrationNetwork,
    levels: int,
    plan: Plan,
    device: torch.device,
    processes: Processes,
) -> TrainingState:
    network = _prepared(network, plan, device, processes)
    halved = plan.training.precision == "float16"
    scaler = torch.amp.GradScaler(device.type) if halved else None
    return TrainingState(network, levels, _optimiser(network, plan), scaler)


def _prepared(
    network: RegistrationNetwork, plan: Plan, device: torch.device, processes: Processes
) -> RegistrationNetwork:
    """The network as training computes it; names and values of its weights stay."""
    network = network.to(device).train()
    prepare_batch_norm(network, plan.training.batch_norm, processes)
    set_precision(network, plan.training.precision)
    return network


def _optimiser(network: RegistrationNetwork, plan: Plan) -> torch.optim.Optimizer:
    training = plan.training
    amsgrad = training.optimiser == "amsgrad"
    return torch.optim.Adam(network.parameters(), lr=training.learning_rate, amsgrad=amsgrad)


def _seeded_network(plan: Plan, network: NetworkPlan) -> RegistrationNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.training.seed)
        return build_network(network, len(plan.fixed_modalities))
