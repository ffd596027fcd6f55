import pytest
import torch
from golden_inputs import noise

from autoreg.errors import GeometryError
from autoreg.losses.regularity import (
    bending,
    diffusion,
    draw_gradicon_points,
    gradicon,
    gradicon_points,
)
from autoreg.numerics.coordinates import index_grid, unit_grid
from autoreg.numerics.maps import FieldChain

SHAPE = (6, 7, 8)


def linear(matrix, offset=0.0):
    def mapping(points):
        return torch.einsum("ij,bjdhw->bidhw", matrix, points) + offset

    return mapping


def smooth_points():
    return unit_grid(SHAPE, dtype=torch.float64)


def random_matrix(seed):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    return torch.eye(3, dtype=torch.float64) + 0.2 * noise


def random_field(shape=SHAPE, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, *shape, generator=generator, dtype=torch.float64)


def test_gradicon_of_the_identity_is_zero():
    identity = FieldChain((torch.zeros(1, 3, *SHAPE),))
    assert gradicon(identity, identity, unit_grid(SHAPE)).item() == 0


def test_gradicon_of_inverse_maps_is_zero_and_of_translations_too():
    matrix = random_matrix(0)
    there, back = linear(matrix, 0.3), linear(matrix.inverse(), 0.1)
    assert gradicon(there, back, smooth_points()).item() == pytest.approx(0, abs=1e-18)


def test_gradicon_of_curved_inverse_maps_is_zero():
    there, back = (lambda x: x + 0.2 * x**3), (lambda y: _inverse_of_cubic(y))
    assert gradicon(there, back, smooth_points()).item() == pytest.approx(0, abs=1e-15)
    assert gradicon(there, there, smooth_points()).item() > 0.1


def _inverse_of_cubic(y):
    x = y.clone()
    for _ in range(60):
        x = x - (x + 0.2 * x**3 - y) / (1 + 0.6 * x**2)
    return x


def test_gradicon_of_affine_maps_is_a_third_of_the_squared_norm_of_the_error_matrix():
    outer, inner = random_matrix(1), random_matrix(2)
    error = torch.eye(3, dtype=torch.float64) - outer @ inner
    value = gradicon(linear(outer), linear(inner, 0.4), smooth_points())
    assert value.item() == pytest.approx(error.square().sum().item() / 3, rel=1e-9)


def test_gradicon_takes_the_inner_map_first():
    points = smooth_points()
    squash, shear = (lambda x: x**2), linear(random_matrix(3))
    expected = []
    for axis in range(3):
        step = torch.zeros(1, 3, 1, 1, 1, dtype=torch.float64)
        step[0, axis] = 1e-3
        moved = points + step
        change = (points - squash(shear(points))) - (moved - squash(shear(moved)))
        expected.append((change / 1e-3).square().mean().item())
    assert gradicon(squash, shear, points).item() == pytest.approx(sum(expected), rel=1e-9)


def test_gradicon_averages_over_the_batch_of_maps():
    fields = [0.02 * random_field((5, 5, 5), batch=2, seed=seed) for seed in (1, 2)]
    points = draw_gradicon_points(SHAPE, torch.Generator().manual_seed(0)).double()
    chains = [FieldChain((field,)) for field in fields]
    single = [
        gradicon(*(chain.select(slice(i, i + 1)) for chain in chains), points) for i in range(2)
    ]
    both = gradicon(*chains, points)
    assert both.item() == pytest.approx(torch.stack(single).mean().item(), rel=1e-12)


def test_gradicon_gradients_are_right():
    points = draw_gradicon_points((4, 4, 4), torch.Generator().manual_seed(0)).double()
    fields = [0.05 * random_field((4, 3, 4), seed=seed) for seed in (1, 2)]

    def loss(outer, inner):
        # A wide step keeps the finite difference of the check from meeting kinks.
        return gradicon(FieldChain((outer,)), FieldChain((inner,)), points, delta=0.05)

    assert torch.autograd.gradcheck(loss, [field.requires_grad_() for field in fields])


def test_the_published_points():
    shape = (5, 6, 8)
    drawn = noise(33, shape)
    axes = [torch.arange(n, dtype=torch.float64) / (n - 1) for n in shape]
    identity = torch.stack(torch.meshgrid(*axes, indexing="ij"))[None].float()
    expected = (identity + 2 * drawn / 8)[:, :, ::2, ::2, ::2]
    assert torch.equal(gradicon_points(shape, drawn[:, :, ::2, ::2, ::2]), expected)


def test_points_are_reproducible_and_scatter_by_two_voxels():
    shape = (40, 40, 41)
    points = draw_gradicon_points(shape, torch.Generator().manual_seed(1))
    assert points.shape == (1, 3, 20, 20, 21)
    assert torch.equal(points, draw_gradicon_points(shape, torch.Generator().manual_seed(1)))
    scatter_vox = (points - unit_grid(shape)[:, :, ::2, ::2, ::2]) * 41
    assert scatter_vox.mean().item() == pytest.approx(0, abs=0.05)
    assert scatter_vox.std().item() == pytest.approx(2, abs=0.05)


def affine_field(matrix, shape=SHAPE):
    return linear(matrix, 0.7)(index_grid(shape, dtype=torch.float64))


def test_diffusion_of_an_affine_displacement():
    matrix = random_matrix(4)
    value = diffusion(affine_field(matrix)).item()
    assert value == pytest.approx(matrix.square().sum().item() / 9)


def test_bending_of_an_affine_displacement_is_zero():
    assert bending(affine_field(random_matrix(5))).item() == pytest.approx(0, abs=1e-20)


def test_bending_of_quadratic_displacements():
    d, h, w = index_grid(SHAPE, dtype=torch.float64)[0]
    # Second derivatives: 2 along d, 3 along h and w (twice in the Hessian), of one component each.
    u = torch.stack([d * d, 3 * h * w, torch.zeros_like(d)])[None]
    assert bending(u).item() == pytest.approx((2**2 + 2 * 3**2) / 3 / 9)


@pytest.mark.parametrize("penalty", [diffusion, bending])
def test_penalty_gradients_are_right(penalty):
    u = random_field((4, 3, 5)).requires_grad_()
    mask = torch.rand(1, 1, 4, 3, 5, generator=torch.Generator().manual_seed(0)) > 0.1
    assert torch.autograd.gradcheck(penalty, (u,))
    assert torch.autograd.gradcheck(lambda v: penalty(v, mask), (u,))


@pytest.mark.parametrize("penalty", [diffusion, bending])
def test_penalty_masks(penalty):
    u = random_field(batch=2)
    everything = torch.ones(2, 1, *SHAPE)
    assert penalty(u, everything).item() == pytest.approx(penalty(u).item())
    mask = everything.clone()
    mask[:, :, :, :2] = 0
    mask[:, :, :, 6:] = 0
    inside = penalty(u, mask).item()
    assert inside == pytest.approx(penalty(u[:, :, :, 2:6]).item())
    changed = u.clone()
    changed[:, :, :, :2] = 1e3
    changed[:, :, :, 6:] = -1e3
    assert penalty(changed, mask).item() == inside
    assert penalty(u, 0 * everything).item() == 0
    with pytest.raises(GeometryError, match=r"\(2, 1, 6, 7, 8\)"):
        penalty(u, mask[:, :, 1:])


@pytest.mark.parametrize("penalty", [diffusion, bending])
def test_penalties_do_not_mind_flat_axes(penalty):
    flat = random_field((1, 5, 6))
    assert penalty(flat).item() > 0
    assert penalty(flat, torch.ones(1, 1, 1, 5, 6)).item() == pytest.approx(penalty(flat).item())
    assert penalty(random_field((1, 1, 1))).item() == 0


def test_diffusion_on_stretched_voxels_is_that_of_the_same_field_in_millimetres():
    matrix = random_matrix(6)
    spacing = torch.tensor([1.0, 2.0, 1.5], dtype=torch.float64)
    # u_mm = M x_mm, in voxels: S^-1 M S.
    in_voxels = matrix * spacing[None] / spacing[:, None]
    value = diffusion(affine_field(in_voxels), spacing_mm=(1.0, 2.0, 1.5)).item()
    assert value == pytest.approx(matrix.square().sum().item() / 9)
    assert value != pytest.approx(diffusion(affine_field(in_voxels)).item(), rel=0.01)


def test_equal_spacings_leave_diffusion_as_it_is():
    u = random_field()
    assert diffusion(u, spacing_mm=(2.5, 2.5, 2.5)).item() == diffusion(u).item()
