"""Recipes: what each architecture is trained with, as its authors published it or as measured."""

from dataclasses import dataclass, replace
from typing import Literal

from autoreg.errors import PlanError, did_you_mean
from autoreg.networks.transmorph import MULTIPLE
from autoreg.planning.budget import Budget
from autoreg.planning.choice import Choice

PUBLISHED_NODES = 175

# From nothing, with a few thousand steps where the published trainings took hundreds of thousands.
CPU_GRADICON_LEARNING_RATE = 5e-4
CPU_SITREG_LEARNING_RATE = 1e-3
CPU_TRANSMORPH_LEARNING_RATE = 5e-4

GRADICON_IO_LEARNING_RATE = 2e-5
SITREG_IO_LEARNING_RATE = 1e-4
TRANSMORPH_IO_LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class GridWishes:
    """What an architecture wants of its grid.

    Attributes:
        cube: Take the published 175^3 where it suits the images.
        multiple: Sizes are multiples of it: 4, so that halving twice leaves no odd rest, or what
            the network pads to.
        most_voxels: Largest grid, of those that it was published at.
    """

    cube: bool
    multiple: int
    most_voxels: int

    def limited(self, voxels: int) -> "GridWishes":
        """The same within so many voxels; the cube is no choice where it would exceed them."""
        cube = self.cube and voxels >= PUBLISHED_NODES**3
        return GridWishes(cube, self.multiple, min(self.most_voxels, voxels))


@dataclass(frozen=True)
class Recipe:
    """What an architecture is trained with.

    Attributes:
        grid: What it wants of the grid.
        window: Edge of the windowed NCC, voxels; None: LNCC with a Gaussian window.
        regularity: Name of the regularity.
        regularity_weight: lambda.
        folding_reason: Why folds are not punished besides.
        group_reason: Why no triplets are trained on.
        shallow_share: Of the epochs that train without the last level.
        batch: Pairs of a step, as published.
        learning_rate: Of training.
        rate_per_pair: Whether the learning rate, given for `batch` pairs, follows their number.
        optimiser: Of training.
        schedule: Of the learning rate.
        io_learning_rate: Of instance optimisation.
    """

    grid: GridWishes
    window: int | None
    regularity: Choice[str]
    regularity_weight: Choice[float]
    folding_reason: str
    group_reason: str
    shallow_share: Choice[float]
    batch: int
    learning_rate: Choice[float]
    rate_per_pair: bool
    optimiser: Choice[Literal["adam", "amsgrad"]]
    schedule: Choice[Literal["constant", "polynomial"]]
    io_learning_rate: Choice[float]


_WITHOUT = "published without"
_ONE_PIECE = Choice(0.0, "this network is trained in one piece")
_CONSTANT: Choice[Literal["constant", "polynomial"]] = Choice("constant", "published: constant")

_GRADICON = Recipe(
    grid=GridWishes(cube=True, multiple=4, most_voxels=PUBLISHED_NODES**3),
    window=None,
    regularity=Choice(
        "gradicon", "published: GradICON, the gradient of the inverse-consistency error"
    ),
    regularity_weight=Choice(
        1.5, "rule lambda: 1.5 as published, for training and instance optimisation"
    ),
    folding_reason=_WITHOUT,
    group_reason=_WITHOUT,
    shallow_share=Choice(
        0.8,
        "rule shallow_epochs: 80% of the epochs without the last level, as published (801 of "
        "1002); unused with --pretrained",
    ),
    batch=4,
    learning_rate=Choice(5e-5, "paper: 5e-5"),
    rate_per_pair=False,
    optimiser=Choice("adam", "paper: Adam"),
    schedule=_CONSTANT,
    io_learning_rate=Choice(GRADICON_IO_LEARNING_RATE, "paper: 2e-5"),
)

_SITREG = Recipe(
    grid=GridWishes(cube=False, multiple=4, most_voxels=224 * 192 * 224),
    window=7,
    regularity=Choice(
        "diffusion",
        "published: squared gradient of the displacement; both maps are inverse to each other by "
        "construction, so that nothing need punish inconsistency",
    ),
    regularity_weight=Choice(
        2.0, "rule lambda: the published 1 weighs the mean of both directions; here they add"
    ),
    folding_reason="an option: LUMIR's winner took 1e-5 in its last third; the maps do not fold, "
    "only their samples on a grid may",
    group_reason="an option: LUMIR's winner took 40 in its last third",
    shallow_share=_ONE_PIECE,
    batch=1,
    learning_rate=Choice(1e-4, "published: 1e-4 with single pairs (OASIS, LPBA40, NLST)"),
    rate_per_pair=True,
    optimiser=Choice("adam", "published: Adam"),
    schedule=_CONSTANT,
    io_learning_rate=Choice(
        SITREG_IO_LEARNING_RATE, "ours: the published rate of training; IO is not published"
    ),
)

_SITREG_LUMIR = replace(
    _SITREG,
    batch=4,
    learning_rate=Choice(4e-4, "published: 4e-4 with batches of 4 (LUMIR)"),
)

_TRANSMORPH = Recipe(
    grid=GridWishes(cube=False, multiple=MULTIPLE, most_voxels=160 * 192 * 224),
    window=9,
    regularity=Choice("diffusion", "published: squared gradient of the displacement"),
    regularity_weight=Choice(
        2.0, "rule lambda: the published 1, which weighs one direction; here both are added"
    ),
    folding_reason=_WITHOUT,
    group_reason=_WITHOUT,
    shallow_share=_ONE_PIECE,
    batch=1,
    learning_rate=Choice(1e-4, "published: 1e-4"),
    rate_per_pair=False,
    optimiser=Choice("amsgrad", "published: Adam with AMSGrad"),
    schedule=Choice("polynomial", "published: (1 - epoch / epochs)^0.9"),
    io_learning_rate=Choice(
        TRANSMORPH_IO_LEARNING_RATE, "ours: the published rate of training; IO is not published"
    ),
)

_RECIPES = {"gradicon": _GRADICON, "sitreg": _SITREG, "transmorph": _TRANSMORPH}

_CPU_LEARNING_RATES = {
    "gradicon": Choice(
        CPU_GRADICON_LEARNING_RATE,
        "rule learning_rate: no published weights of this width to start from, hence ten times "
        "the paper's 5e-5 (measured: after 240 steps a loss of 0.623 instead of 0.670)",
    ),
    "sitreg": Choice(
        CPU_SITREG_LEARNING_RATE,
        "rule learning_rate: from nothing in a CPU's few steps: ten times the published rate",
    ),
    "transmorph": Choice(
        CPU_TRANSMORPH_LEARNING_RATE,
        "rule learning_rate: from nothing in a CPU's few steps: five times the published rate",
    ),
}


def recipe_of(architecture: str, budget: Budget) -> Recipe:
    """The recipe of an architecture: of LUMIR's SITReg on the largest card, faster on a CPU.

    Args:
        architecture: One of `plan.ARCHITECTURES`.
        budget: What may be taken.

    Raises:
        PlanError: if the architecture is unknown.
    """
    if architecture not in _RECIPES:
        remedy = did_you_mean(architecture, _RECIPES)
        raise PlanError(f'architecture "{architecture}" is unknown; {remedy}')
    recipe = _RECIPES[architecture]
    if budget.grid_voxels is not None:
        recipe = replace(recipe, grid=recipe.grid.limited(budget.grid_voxels))
    if not budget.cuda:
        return replace(recipe, learning_rate=_CPU_LEARNING_RATES[architecture])
    if architecture == "sitreg" and budget.name == "80gb":
        return _SITREG_LUMIR
    return recipe
