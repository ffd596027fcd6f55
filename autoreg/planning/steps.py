"""The steps that the planning commands are made of: verify, fingerprint, plan, preprocess.

Each step knows what earlier runs left in `<preprocessed>/<dataset>/` and does only what is missing.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from autoreg.errors import AutoregError, PlanError
from autoreg.fingerprint import Fingerprint
from autoreg.io.dataset import RawDataset, read_dataset
from autoreg.io.records import load_record, save_record
from autoreg.plan import Plan
from autoreg.planning.budget import Budget
from autoreg.planning.fingerprint import compute_fingerprint
from autoreg.planning.plans_file import is_added_by_hand, load_plan, plans_path, write_plans
from autoreg.planning.preprocess import PreprocessReport, preprocess
from autoreg.planning.rules import plan_from_fingerprint
from autoreg.planning.verification import require_valid

logger = logging.getLogger(__name__)

FINGERPRINT_NAME = "dataset_fingerprint.json"
VERIFIED_NAME = "verified.json"


@dataclass(frozen=True)
class Work:
    """How the steps run.

    Attributes:
        preprocessed: Folder of preprocessed data.
        workers: Number of processes; None: chosen.
        progress: Whether to show bars.
        overwrite: Do again what is up to date.
        device: Where cases are prepared.
    """

    preprocessed: Path
    workers: int | None
    progress: bool
    overwrite: bool
    device: torch.device


@dataclass(frozen=True)
class _Verified:
    """Content of verified.json: the state of the data set that passed."""

    digest: str


def open_dataset(folder: Path, work: Work, *, verify: bool) -> RawDataset:
    """Read a raw data set and verify it, unless this very state passed before.

    Raises:
        DataError: listing all problems.
    """
    if not verify:
        return read_dataset(folder)
    path = work.preprocessed / folder.absolute().name / VERIFIED_NAME
    if path.exists() and not work.overwrite:
        dataset = read_dataset(folder)
        if _is_verified(path, dataset.digest):
            return dataset
    dataset = require_valid(folder, work.workers, work.progress)
    save_record(_Verified(dataset.digest), work.preprocessed / dataset.name / VERIFIED_NAME)
    return dataset


def make_fingerprint(dataset: RawDataset, work: Work) -> Fingerprint:
    """The data set's fingerprint, computed anew if the data set has changed since."""
    path = work.preprocessed / dataset.name / FINGERPRINT_NAME
    if path.exists() and not work.overwrite:
        try:
            present = load_record(Fingerprint, path)
        except AutoregError as error:
            logger.warning("%s; it is computed again", error)
        else:
            if present.digest == dataset.digest:
                return present
    fingerprint = compute_fingerprint(dataset, work.workers, work.progress)
    save_record(fingerprint, path)
    return fingerprint


def load_fingerprint(dataset: RawDataset, preprocessed: Path) -> Fingerprint:
    """The fingerprint on disk, which must be of the data set's present state.

    Raises:
        PlanError: if it is missing or out of date.
    """
    path = preprocessed / dataset.name / FINGERPRINT_NAME
    if not path.exists():
        raise PlanError(f"{path}: no such file; run autoreg_fingerprint -d {dataset.name} first")
    fingerprint = load_record(Fingerprint, path)
    if fingerprint.digest != dataset.digest:
        raise PlanError(
            f"{path}: the data set {dataset.folder} has changed since; run autoreg_fingerprint "
            f"-d {dataset.name} again"
        )
    return fingerprint


def make_plan(
    fingerprint: Fingerprint,
    budget: Budget,
    configuration: str,
    preprocessed: Path,
    architecture: str | None = None,
) -> tuple[Plan, tuple[str, ...]]:
    """Plan a configuration and write it to plans.json; one that a person added is only read.

    Args:
        fingerprint: Of the data set.
        budget: What may be taken.
        configuration: Its name.
        preprocessed: Folder of preprocessed data.
        architecture: Of the network; None: chosen.

    Returns:
        The plan, and sentences that the user should read.

    Raises:
        PlanError: if a person added the configuration with another architecture.
    """
    path = plans_path(preprocessed, fingerprint.dataset)
    if is_added_by_hand(path, configuration):
        plan = load_plan(path, configuration)
        found = plan.network.architecture
        if architecture not in (None, found):
            raise PlanError(
                f'{path}: the configuration "{configuration}" is yours, and its network is '
                f"{found}, not the {architecture} of --architecture; plan under another name with "
                "--config, or leave --architecture out"
            )
        return plan, (f'the configuration "{configuration}" is yours: taken as it stands',)
    plan = plan_from_fingerprint(fingerprint, budget, configuration, architecture)
    messages = write_plans(path, plan, fingerprint.digest)
    return plan, messages


def run_preprocess(dataset: RawDataset, plan: Plan, work: Work) -> PreprocessReport:
    """Prepare the cases of a plan (see `preprocess`)."""
    return preprocess(
        dataset,
        plan,
        work.preprocessed,
        workers=work.workers,
        progress=work.progress,
        overwrite=work.overwrite,
        device=work.device,
    )


def _is_verified(path: Path, digest: str) -> bool:
    try:
        return load_record(_Verified, path).digest == digest
    except AutoregError:
        return False
