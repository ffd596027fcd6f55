"""Score one pair as the referees of LUMIR and Learn2Reg do, from its displacement file."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoreg.evaluation.fields import ndv, sdlogj
from autoreg.evaluation.overlap import dice, mean_over_labels, present_labels
from autoreg.evaluation.protocols import Protocol
from autoreg.evaluation.reading import read_on_fixed
from autoreg.evaluation.referee_field import pulled
from autoreg.evaluation.referee_files import RefereeFiles
from autoreg.evaluation.referee_landmarks import (
    RefereeField,
    landmark_errors,
    load_field,
    note_one_sided,
    read_on_moving,
)
from autoreg.evaluation.referee_scores import RefereeCase, RefereeLabel
from autoreg.evaluation.scores import LabelState
from autoreg.evaluation.structures import label_notes
from autoreg.evaluation.surface import hd95

Scores = dict[str, float | None]


def score_case(
    files: RefereeFiles,
    protocol: Protocol,
    labels: Sequence[int] | None,
    device: torch.device,
    *,
    masked: bool | None = None,
) -> RefereeCase:
    """Score one pair by a protocol.

    Args:
        files: Of the pair.
        protocol: The rules.
        labels: In place of the protocol's own list.
        device: Where to compute what torch computes.
        masked: Whether SDlogJ is taken inside the fixed image's mask; None: as the task's referee.

    Raises:
        DataError: if a file is missing, unreadable, misplaced or two-dimensional.
    """
    field = load_field(files, device)
    notes = list(files.notes)
    scores: Scores = dict.fromkeys(protocol.metrics)
    table = _labels(files, field, labels if labels is not None else protocol.labels, notes)
    if table is not None:
        scores["dice"] = mean_over_labels(np.array([s.dice for s in table]))
        scores["hd95_vox"] = mean_over_labels(np.array([s.hd95_vox for s in table]))
        notes += label_notes(table)
    errors = landmark_errors(files, field, protocol, notes)
    # As the referees do: one lost landmark leaves no mean.
    scores |= {key: float(found.mean()) for key, found in errors.items()}
    scores |= _folds(files, field, notes)
    mask = _mask(files, field, notes) if _is_masked(files, protocol, masked, notes) else None
    scores["sdlogj_plus3"] = sdlogj(field.u_vox, mask)
    scores["sdlogj_plain"] = sdlogj(field.u_vox, mask, plus3=False)
    return RefereeCase(
        case=files.case,
        scores=scores,
        sdlogj_region="whole" if mask is None else "mask",
        labels=table or (),
        landmarks=sum(len(found) for found in errors.values()),
        notes=tuple(notes),
    )


def _labels(
    files: RefereeFiles, field: RefereeField, wanted: Sequence[int] | None, notes: list[str]
) -> tuple[RefereeLabel, ...] | None:
    if files.fixed_labels is None or files.moving_labels is None:
        note_one_sided("labels", files.fixed_labels, files.moving_labels, notes)
        return None
    fixed = read_on_fixed([files.fixed_labels], "label", field.fixed).single
    moving = read_on_moving(files.moving_labels, "label", field).single
    warped = pulled(moving, field.sources)
    if wanted is None:
        named = set(files.label_names.values()) - {0}
        wanted = sorted(named or {*present_labels(fixed), *present_labels(moving)})
    device = field.u_vox.device
    on_device = torch.from_numpy(fixed.astype(np.int64)).to(device)
    overlaps = dice(on_device, warped, wanted, moving=moving)
    distances = hd95(fixed, warped, wanted, moving=moving)
    occur = [set(present_labels(m, background=True)) for m in (fixed, moving, warped)]
    names = {value: name for name, value in files.label_names.items()}
    return tuple(
        RefereeLabel(
            label, names.get(label, ""), _state(label, occur), float(overlap), float(distance)
        )
        for label, overlap, distance in zip(wanted, overlaps, distances, strict=True)
    )


def _state(label: int, occur: Sequence[set[int]]) -> LabelState:
    in_fixed, in_moving, in_warped = (label in found for found in occur)
    if not in_fixed:
        return "missing in fixed"
    if not in_moving:
        return "missing in moving"
    return "ok" if in_warped else "lost"


def _folds(files: RefereeFiles, field: RefereeField, notes: list[str]) -> Scores:
    found: Scores = {"ndv_fraction": ndv(field.u_vox).fraction}
    fixed = read_on_fixed([files.fixed], "intensity", field.fixed).single > 0
    found["ndv_fixed_fraction"] = ndv(field.u_vox, _to(fixed, field)).fraction
    found["ndv_moving_fraction"] = None
    if field.moving.shape != field.fixed.shape:
        notes.append(
            f"NDV in the moving foreground not scored: the images' shapes differ, "
            f"{field.fixed.shape} (fixed) and {field.moving.shape} (moving)"
        )
        return found
    moving = read_on_moving(files.moving, "intensity", field).single > 0
    found["ndv_moving_fraction"] = ndv(field.u_vox, _to(moving, field)).fraction
    return found


def _is_masked(
    files: RefereeFiles, protocol: Protocol, wanted: bool | None, notes: list[str]
) -> bool:
    """Whether SDlogJ is taken inside the fixed mask; notes where that is not the referee's way."""
    if not protocol.masked_tasks:
        return False
    official = protocol.masked_tasks.get(files.task.lower())
    masked = bool(official) if wanted is None else wanted
    region = "the whole grid"
    if masked and files.fixed_mask is None:
        why = "as the fixed image has no mask"
        if official:
            why += f", inside which the referee of {files.task} takes it"
        notes.append(f"SDlogJ of {region}, {why}")
        return False
    if official is None and wanted is None and files.fixed_mask is not None:
        notes.append(
            f'SDlogJ of {region}: the rule of the task "{files.task}" is not known; --masked takes '
            "it inside the fixed image's mask"
        )
    elif official is not None and masked is not official:
        own, other = (region, "the mask") if official is False else ("the mask", region)
        notes.append(f"SDlogJ of {other} as asked; the referee of {files.task} takes {own}")
    return masked


def _mask(files: RefereeFiles, field: RefereeField, notes: list[str]) -> Tensor | None:
    """Voxels of value 1, which the referee counts: any other value is outside for it."""
    if files.fixed_mask is None:
        return None
    values = read_on_fixed([files.fixed_mask], "intensity", field.fixed).single
    others = np.unique(values[(values != 0) & (values != 1)])
    if others.size:
        found = f"{others[0]:g}" if others.size == 1 else f"{others[0]:g} to {others[-1]:g}"
        notes.append(
            f"{files.fixed_mask.name}: holds values other than 0 and 1 ({found}), which count as "
            "outside for the referee"
        )
    return _to(values == 1, field)


def _to(mask: NDArray[np.bool_], field: RefereeField) -> Tensor:
    return torch.from_numpy(mask).to(field.u_vox.device)
