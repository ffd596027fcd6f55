"""Planning rules for intensities and the loss."""

import math
from collections.abc import Sequence

from autoreg.fingerprint import Fingerprint, IntensityStatistics
from autoreg.network_plan import Shape
from autoreg.plan import IntensityPlan, LossPlan
from autoreg.planning.choice import Choice
from autoreg.planning.fingerprint import is_ct
from autoreg.planning.recipes import PUBLISHED_NODES, Recipe

# uniGradICON's window of CT, Hounsfield units.
CT_WINDOW = (-1000.0, 1000.0)
# Values from 0 to beyond this are not Hounsfield units but carry an offset.
CT_OFFSET_MAXIMUM = 1500.0
# uniGradICON's quantiles of MR.
QUANTILES = (0.0, 0.99)

PUBLISHED_SIGMA = 5.0
SMALLEST_SIGMA = 2.0
# Edge of the cube whose spread is that of a Gaussian with the smallest sigma, voxels.
SMALLEST_WINDOW = 7
# TransMorph's grid: cubic root of 160 x 192 x 224.
WINDOW_NODES = 190
# Same modality names, yet bright in one image is dark in the other.
NEGATIVE_CORRELATION = -0.1


def choose_intensity(fingerprint: Fingerprint) -> dict[str, Choice[IntensityPlan]]:
    """Rule `intensity`: one scheme per modality name.

    CT: the window [-1000, 1000] HU, cut to the range that the data has (data clipped or scaled
    before would otherwise keep little contrast). CT whose values go from 0 beyond 1500 carries an
    offset and is treated like anything else: quantiles 0 to 0.99 of each image, as published for
    MR.
    """
    statistics: dict[str, list[IntensityStatistics]] = {}
    for case in fingerprint.cases:
        for modality, values in zip(case.modalities, case.intensity, strict=True):
            statistics.setdefault(modality, []).append(values)
    for modality in (*fingerprint.fixed_modalities, *fingerprint.moving_modalities):
        statistics.setdefault(modality, [])
    return {name: _intensity(name, statistics[name]) for name in sorted(statistics)}


def _intensity(modality: str, statistics: Sequence[IntensityStatistics]) -> Choice[IntensityPlan]:
    quantiles = IntensityPlan("quantiles", *QUANTILES)
    if not is_ct(modality):
        return Choice(
            quantiles,
            f'rule intensity: "{modality}" has no absolute scale; minimum to 99 % quantile of each '
            "image, as published for MR (uniGradICON)",
        )
    minimum = min((values.minimum for values in statistics), default=CT_WINDOW[0])
    maximum = max((values.maximum for values in statistics), default=CT_WINDOW[1])
    found = f"values from {minimum:g} to {maximum:g}"
    if minimum >= 0 and maximum > CT_OFFSET_MAXIMUM:
        return Choice(
            quantiles,
            f'rule intensity: "{modality}" with {found} is not in Hounsfield units (an offset was '
            "added): quantiles 0 to 0.99 of each image instead of the CT window",
        )
    lower, upper = max(CT_WINDOW[0], minimum), min(CT_WINDOW[1], maximum)
    if (lower, upper) == CT_WINDOW or lower >= upper:
        window = IntensityPlan("window", *CT_WINDOW)
        return Choice(window, f"rule intensity: CT, {found}; window as published (uniGradICON)")
    return Choice(
        IntensityPlan("window", lower, upper),
        f"rule intensity: CT; the published window [-1000, 1000] cut to the data's {found}",
    )


def choose_similarity(fingerprint: Fingerprint, *, windowed: bool = False) -> Choice[str]:
    """Rule `similarity`: LNCC within one contrast, otherwise squared LNCC or MIND.

    Modality names decide first. CT against anything else shares edges but no local linear
    relation: MIND-SSC. Two other modalities, mostly contrasts of MR: squared LNCC, which doesn't
    ask for the sign of the relation. Where the names are equal, the sampled pairs' median
    correlation (after the alignment that correlates better) must not be negative; if it is, the
    name hides two contrasts. A windowed NCC takes the place of both LNCCs: it is squared already.

    Args:
        fingerprint: Modalities and correlations decide.
        windowed: Whether the network was published with a windowed NCC.

    References:
        Tian et al., uniGradICON (LNCC); Demir et al., multiGradICON (squared LNCC); Heinrich et
        al., Towards realtime multimodal fusion ... self-similarities, MICCAI 2013 (MIND-SSC).
    """
    fixed, moving = fingerprint.fixed_modalities, fingerprint.moving_modalities
    names = f"fixed {', '.join(fixed)}, moving {', '.join(moving)}"
    if fixed != moving:
        if any(is_ct(one) != is_ct(other) for one, other in zip(fixed, moving, strict=False)):
            return Choice(
                "mind",
                f"rule similarity: {names}: CT against another modality; self-similarity context",
            )
    if windowed:
        return Choice(
            "windowed_ncc",
            f"rule similarity: {names}: windowed NCC as published with this network; it is "
            "squared, so that one contrast or two make no difference",
        )
    if fixed != moving:
        return Choice(
            "squared_lncc", f"rule similarity: {names}: two contrasts; the sign doesn't count"
        )
    correlations = [
        max(pair.world_correlation, pair.centred_correlation) for pair in fingerprint.pairs
    ]
    known = sorted(value for value in correlations if math.isfinite(value))
    median = known[len(known) // 2] if known else 0.0
    facts = f"{names}, median correlation of the sampled pairs {median:.2f}"
    if known and median < NEGATIVE_CORRELATION:
        return Choice(
            "squared_lncc",
            f"rule similarity: {facts} < {NEGATIVE_CORRELATION:g}: one name, two contrasts",
        )
    return Choice("lncc", f"rule similarity: {facts}; one modality, LNCC as published")


def choose_sigma(shape: Shape) -> Choice[float]:
    """Rule `sigma`: 5 voxels at 175^3, the same share of the grid at other sizes, at least 2.

    sigma = 5 (D H W)^(1/3) / 175, rounded to a half: the window then shows the same piece of
    anatomy. Below 2 the window (truncated at 2 sigma) would hold too few independent voxels for a
    correlation: about (2 sqrt(pi) sigma)^3 = 360 at 2, 45 at 1.
    """
    size = math.prod(shape) ** (1 / 3)
    scaled = round(2 * PUBLISHED_SIGMA * size / PUBLISHED_NODES) / 2
    sigma = min(PUBLISHED_SIGMA, max(SMALLEST_SIGMA, scaled))
    return Choice(
        sigma,
        f"rule sigma: {PUBLISHED_SIGMA:g} voxels at 175^3 (published), the same share of the grid "
        f"at {size:.0f}^3, at least {SMALLEST_SIGMA:g}",
    )


def choose_window(shape: Shape, published: int) -> Choice[int]:
    """Rule `window`: as published, the same share of smaller grids, at least 7.

    window = published (D H W)^(1/3) / 190, rounded to the nearest odd number, for the reasons of
    rule `sigma`; 7 has the spread of a Gaussian with sigma 2.

    Args:
        shape: Of the grid.
        published: Edge of the published cube, voxels; odd.
    """
    size = math.prod(shape) ** (1 / 3)
    scaled = 2 * round((published * size / WINDOW_NODES - 1) / 2) + 1
    return Choice(
        min(published, max(SMALLEST_WINDOW, scaled)),
        f"rule window: {published} voxels as published, the same share of smaller grids, at least "
        f"{SMALLEST_WINDOW}",
    )


def choose_loss(
    fingerprint: Fingerprint, shape: Shape, recipe: Recipe
) -> tuple[LossPlan, dict[str, str]]:
    """The loss and its reasons (rules `similarity`, `sigma`, `window`, `lambda`).

    Args:
        fingerprint: Modalities and correlations decide.
        shape: Of the grid.
        recipe: Of the architecture.
    """
    similarity = choose_similarity(fingerprint, windowed=recipe.window is not None)
    parameters: dict[str, float]
    if similarity.value == "mind":
        parameters = {"radius": 2.0, "dilation": 2.0}
        why = "published: radius 2, dilation 2 (uniGradICON)"
    elif recipe.window is None:
        sigma = choose_sigma(shape)
        parameters, why = {"sigma": sigma.value}, sigma.reason
    else:
        window = choose_window(shape, recipe.window)
        parameters, why = {"window": float(window.value)}, window.reason
    regularity, weight = recipe.regularity, recipe.regularity_weight
    loss = LossPlan(similarity.value, parameters, regularity.value, weight.value)
    return loss, {
        "loss.similarity": similarity.reason,
        "loss.similarity_parameters": why,
        "loss.regularity": regularity.reason,
        "loss.regularity_weight": weight.reason,
        "loss.folding_weight": recipe.folding_reason,
    }
