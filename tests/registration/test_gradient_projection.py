import pytest
import torch

from autoreg.registration.gradient_projection import project


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def random_gradients(seed, conflicting):
    """Two gradients of three parameters each, with the wanted sign of their product."""
    generator = rng(seed)
    g, h = ([torch.randn(s, generator=generator) for s in ((3, 4), (5,), (2, 2, 2))] for _ in "gh")
    if (float(flat(g) @ flat(h)) < 0) != conflicting:
        h = [-x for x in h]
    return g, h


def flat(tensors):
    return torch.cat([t.double().flatten() for t in tensors])


def copies(tensors):
    return [t.clone() for t in tensors]


@pytest.mark.parametrize("rule", ["random_one", "both"])
def test_without_conflict_it_is_the_plain_sum(rule):
    g, h = random_gradients(1, conflicting=False)
    generator = rng()
    state = generator.get_state()
    found = project(copies(g), h, rule, generator)
    assert not found.conflict
    assert found.cosine > 0
    assert all(torch.equal(x, a + b) for x, a, b in zip(found.gradient, g, h, strict=True))
    assert torch.equal(generator.get_state(), state)  # the coin is thrown on conflict only


def test_random_one_removes_from_one_gradient_what_goes_against_the_other():
    g, h = random_gradients(2, conflicting=True)
    outcomes = set()
    for seed in range(20):
        found = project(copies(g), h, "random_one", rng(seed))
        assert found.conflict
        assert found.cosine < 0
        joint = flat(found.gradient)
        kept = [k for k in (g, h) if abs(float((joint - flat(k)) @ flat(k))) < 1e-5]
        # What is left of the other gradient is orthogonal to the one that was kept.
        assert len(kept) == 1
        outcomes.add(kept[0] is g)
    assert outcomes == {True, False}


def test_both_projects_each_onto_the_normal_plane_of_the_original_other():
    g, h = random_gradients(3, conflicting=True)
    a, b = flat(g), flat(h)
    projected_a, projected_b = a - (a @ b) / (b @ b) * b, b - (a @ b) / (a @ a) * a
    assert abs(float(projected_a @ b)) < 1e-12
    found = project(copies(g), h, "both", rng())
    torch.testing.assert_close(flat(found.gradient), projected_a + projected_b, rtol=0, atol=1e-6)
    assert found.cosine == pytest.approx(float(a @ b / (a.norm() * b.norm())))


def test_the_coin_is_fair_and_follows_its_seed():
    g, h = [torch.tensor([1.0, 0.0])], [torch.tensor([-1.0, 1.0])]

    def throws(seed):
        generator = rng(seed)
        # g kept: (1, 0) + (0, 1); h kept: (0.5, 0.5) + (-1, 1)
        found = [project(copies(g), h, "random_one", generator).gradient[0] for _ in range(1000)]
        return [float(x[0]) > 0 for x in found]

    assert 440 < sum(throws(0)) < 560  # within four standard deviations
    assert throws(0) == throws(0)
    assert throws(0) != throws(1)


def test_the_whole_parameter_vector_decides():
    # The first tensors conflict, but the second ones agree more.
    g = [torch.tensor([1.0]), torch.tensor([2.0])]
    h = [torch.tensor([-1.0]), torch.tensor([2.0])]
    found = project(copies(g), h, "both", rng())
    assert not found.conflict
    assert [x.tolist() for x in found.gradient] == [[0.0], [4.0]]


def test_products_are_summed_in_double_precision():
    g, h = (torch.randn(20_000, generator=rng(seed)) for seed in (1, 2))
    a, b = g.double(), h.double()
    expected = float(a @ b / (a.norm() * b.norm()))
    assert project([g], [h], "both", rng()).cosine == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("zero_first", [True, False])
def test_a_vanishing_gradient_leaves_the_other_alone(zero_first):
    g, zero = [torch.tensor([1.0, -2.0])], [torch.zeros(2)]
    first, second = (zero, g) if zero_first else (g, zero)
    found = project(copies(first), second, "both", rng())
    assert found.gradient[0].tolist() == [1.0, -2.0]
    assert (found.cosine, found.conflict) == (0.0, False)


def test_the_regularity_gradient_is_left_as_it_is():
    g, h = random_gradients(4, conflicting=True)
    before = copies(h)
    project(g, h, "both", rng())
    assert all(torch.equal(a, b) for a, b in zip(h, before, strict=True))
