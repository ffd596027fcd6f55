import pytest
from fingerprints import case, fingerprint

from autoreg.losses.factory import build_regularity, build_similarity
from autoreg.network_plan import ARCHITECTURES
from autoreg.plan import IntensityPlan
from autoreg.planning.budget import get_budget
from autoreg.planning.recipes import recipe_of
from autoreg.planning.rules_loss import (
    choose_intensity,
    choose_loss,
    choose_sigma,
    choose_similarity,
    choose_window,
)

CUBE = (175, 175, 175)


def intensity_of(modality, minimum, maximum):
    one = case("a", modalities=(modality,), intensities=(minimum, maximum))
    return choose_intensity(fingerprint([one, one], fixed=(modality,)))[modality]


@pytest.mark.parametrize(
    ("modality", "minimum", "maximum", "expected"),
    [
        ("CT", -1024, 3071, ("window", -1000, 1000)),
        ("ct", -1024, 400, ("window", -1000, 400)),
        ("CT", -160, 240, ("window", -160, 240)),  # clipped before
        ("CT", 0, 1, ("window", 0, 1)),  # scaled before
        ("CT", 0, 4095, ("quantiles", 0, 0.99)),  # carries an offset of 1024
        ("MR", 0, 255, ("quantiles", 0, 0.99)),
        ("T1w", -3, 2000, ("quantiles", 0, 0.99)),
        ("PET", 0, 40000, ("quantiles", 0, 0.99)),
    ],
)
def test_intensity_scheme(modality, minimum, maximum, expected):
    assert intensity_of(modality, minimum, maximum).value == IntensityPlan(*expected)


def test_the_window_spans_all_cases():
    cases = [case("a", modalities=("CT",), intensities=(-200.0, 300.0)),
             case("b", modalities=("CT",), intensities=(-900.0, 250.0))]  # fmt: skip
    window = choose_intensity(fingerprint(cases, fixed=("CT",)))["CT"].value
    assert (window.lower, window.upper) == (-900.0, 300.0)


def test_every_modality_of_a_pair_has_a_scheme():
    cases = [case("a", modalities=("CT",), intensities=(-1024.0, 2000.0)), case("b")]
    schemes = choose_intensity(fingerprint(cases, fixed=("CT",), moving=("MR",)))
    assert {name: choice.value.kind for name, choice in schemes.items()} == {
        "CT": "window",
        "MR": "quantiles",
    }


@pytest.mark.parametrize(
    ("fixed", "moving", "correlation", "expected"),
    [
        (("MR",), ("MR",), 0.7, "lncc"),
        (("MR",), ("MR",), 0.05, "lncc"),  # not registered yet: low is no proof
        (("MR",), ("MR",), -0.4, "squared_lncc"),
        (("T1",), ("T2",), 0.5, "squared_lncc"),
        (("CT",), ("MR",), 0.5, "mind"),
        (("MR",), ("CBCT",), 0.5, "mind"),
        (("CT",), ("CBCT",), 0.5, "squared_lncc"),
        (("T1", "T2"), ("T1", "T2"), 0.5, "lncc"),
    ],
)
def test_similarity(fixed, moving, correlation, expected):
    data = fingerprint(fixed=fixed, moving=moving, correlation=correlation)
    assert choose_similarity(data).value == expected


@pytest.mark.parametrize(
    ("shape", "expected"),
    [(CUBE, 5.0), ((128, 160, 128), 4.0), ((96,) * 3, 2.5), ((48,) * 3, 2.0), ((400,) * 3, 5.0)],
)
def test_sigma_keeps_its_share_of_the_grid(shape, expected):
    assert choose_sigma(shape).value == expected


@pytest.mark.parametrize(
    ("shape", "published", "expected"),
    [
        ((160, 192, 224), 9, 9),
        (CUBE, 9, 9),
        ((64, 64, 64), 9, 7),
        ((64, 64, 64), 7, 7),
        ((224, 192, 224), 7, 7),
    ],
)
def test_the_window_is_odd_and_keeps_its_share(shape, published, expected):
    assert choose_window(shape, published).value == expected


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("fixed", "moving"), [("MR", "MR"), ("CT", "MR"), ("T1", "T2")])
def test_the_losses_know_what_the_planner_asks_for(fixed, moving, architecture):
    recipe = recipe_of(architecture, get_budget("24gb"))
    loss, reasons = choose_loss(fingerprint(fixed=(fixed,), moving=(moving,)), CUBE, recipe)
    build_similarity(loss)
    build_regularity(loss, (1.0, 1.0, 1.0))
    assert loss.regularity_weight == (1.5 if architecture == "gradicon" else 2.0)
    assert all(reasons.values())


def test_each_architecture_has_its_published_loss():
    found = {}
    for name in ARCHITECTURES:
        loss, _ = choose_loss(fingerprint(), CUBE, recipe_of(name, get_budget("80gb")))
        found[name] = (loss.similarity, loss.similarity_parameters, loss.regularity)
    assert found == {
        "gradicon": ("lncc", {"sigma": 5.0}, "gradicon"),
        "sitreg": ("windowed_ncc", {"window": 7.0}, "diffusion"),
        "transmorph": ("windowed_ncc", {"window": 9.0}, "diffusion"),
    }


def test_a_windowed_ncc_is_squared_already_but_does_not_replace_mind():
    recipe = recipe_of("sitreg", get_budget("80gb"))
    two, _ = choose_loss(fingerprint(fixed=("T1",), moving=("T2",)), CUBE, recipe)
    ct, _ = choose_loss(fingerprint(fixed=("CT",), moving=("MR",)), CUBE, recipe)
    assert (two.similarity, ct.similarity) == ("windowed_ncc", "mind")


@pytest.mark.parametrize("architecture", ["sitreg", "transmorph"])
@pytest.mark.parametrize(("fixed", "moving"), [("MR", "MR"), ("T1", "T2")])
def test_the_reason_is_of_the_similarity_that_was_chosen(architecture, fixed, moving):
    recipe = recipe_of(architecture, get_budget("80gb"))
    loss, reasons = choose_loss(fingerprint(fixed=(fixed,), moving=(moving,)), CUBE, recipe)
    reason = reasons["loss.similarity"]
    assert loss.similarity == "windowed_ncc"
    assert "windowed NCC as published with this network" in reason
    assert "LNCC" not in reason
    assert f"fixed {fixed}, moving {moving}" in reason
