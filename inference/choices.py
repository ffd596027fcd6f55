"""What the flags of several commands may say: the values of the plans' types, nothing heavy."""

from typing import Literal, get_args, get_type_hints

from autoreg.field_plan import FieldSimilarity
from autoreg.plan import InstanceOptimisationPlan
from autoreg.registration.align_settings import AlignmentKind
from autoreg.registration.field_presets import PRESETS as _PRESETS

RefineChoice = Literal["auto", "off", "fast", "balanced", "accurate"]

_OPTIMISATION = get_type_hints(InstanceOptimisationPlan)

IO_MODES: tuple[str, ...] = get_args(_OPTIMISATION["mode"])
IO_PROJECTIONS: tuple[str, ...] = get_args(_OPTIMISATION["projection"])
IO_OPTIMISED: tuple[str, ...] = get_args(_OPTIMISATION["optimised"])
PRESETS: tuple[str, ...] = tuple(_PRESETS)
REFINEMENTS: tuple[str, ...] = get_args(RefineChoice)
SIMILARITIES: tuple[str, ...] = get_args(FieldSimilarity)
ALIGNMENTS: tuple[str, ...] = get_args(AlignmentKind)
# `Which` of training.model_folder, which imports torch.
CHECKPOINTS = ("final", "best", "latest")
