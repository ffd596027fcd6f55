from functools import partial

import pytest
import torch
from golden_inputs import volume

from autoreg.errors import GeometryError, PlanError
from autoreg.losses.similarity import LNCC, MIND, MSE, SquaredLNCC, WindowedNCC

SHAPE = (32, 32, 32)
SMALL = (7, 9, 8)
# (similarity, how far its windows reach, in voxels)
ALL = {
    "lncc": (LNCC(sigma=1.0), 2),
    "squared_lncc": (SquaredLNCC(sigma=1.0), 2),
    "windowed_ncc": (WindowedNCC(window=3), 1),
    "mind": (MIND(radius=1, dilation=1), 2),
    "mse": (MSE(), 0),
}
each = pytest.mark.parametrize(("similarity", "reach"), ALL.values(), ids=ALL.keys())


def random_images(count, shape=SMALL, channels=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = (1, channels, *shape)
    return [torch.rand(size, generator=generator, dtype=torch.float64) for _ in range(count)]


# Published values and gradient norms: icon_registration 1.1.9 and unigradicon 1.0.6.
GOLDEN = [
    (LNCC(), False, 0.6302624940872192, 0.036486613864138095),
    (LNCC(), True, 0.9108298420906067, 0.04079305646541095),
    (SquaredLNCC(), False, 0.8330630660057068, 0.027041617125183402),
    (SquaredLNCC(), True, 0.9426067471504211, 0.009110477144656449),
    (MIND(), False, 0.16603469848632812, 0.12558271769380047),
    (MIND(), True, 0.20843251049518585, 0.029745870913697913),
    (MSE(), False, 0.039073191583156586, 0.0021839589175118943),
]


@pytest.mark.parametrize(("similarity", "masked", "value", "gradient_norm"), GOLDEN)
def test_the_published_value_and_gradient(similarity, masked, value, gradient_norm):
    warped, fixed = volume(11, SHAPE).requires_grad_(), volume(22, SHAPE)
    loss = similarity(warped, fixed, volume(44, SHAPE) > 0.3 if masked else None)
    (gradient,) = torch.autograd.grad(loss, warped)
    assert loss.item() == pytest.approx(value, abs=1e-6)
    assert gradient.double().norm().item() == pytest.approx(gradient_norm, rel=1e-5)


PUBLISHED_BOTH_WAYS = [
    (LNCC(), 1.3902463912963867),
    (SquaredLNCC(), 1.7116426229476929),
    (MIND(), 0.35527870059013367),
]


@pytest.mark.parametrize(("similarity", "value"), PUBLISHED_BOTH_WAYS)
def test_the_published_sum_of_both_directions_at_the_identity(similarity, value):
    moving, fixed = volume(11, (66, 66, 66)), volume(22, (66, 66, 66))
    assert (similarity(moving, fixed) + similarity(fixed, moving)).item() == pytest.approx(
        value, abs=1e-6
    )


def test_windowed_ncc_is_voxelmorphs_formula():
    w, f = random_images(2, (9, 10, 11))
    ones = torch.ones(1, 1, 5, 5, 5, dtype=torch.float64)

    def sums(x):
        return torch.nn.functional.conv3d(x, ones, padding=2)

    n = 5**3
    cross = sums(w * f) - sums(w) * sums(f) / n
    variances = [sums(x * x) - sums(x) ** 2 / n for x in (w, f)]
    cc = cross**2 / (variances[0] * variances[1] + 1e-5)
    assert WindowedNCC(window=5)(w, f).item() == pytest.approx(1 - cc.mean().item(), abs=1e-12)


@each
def test_gradients_are_right(similarity, reach):
    warped, fixed = random_images(2, (5, 6, 5))
    mask = torch.rand(warped.shape, generator=torch.Generator().manual_seed(3)) > 0.4
    for inside in (None, mask):
        loss = partial(similarity, fixed=fixed, mask=inside)
        assert torch.autograd.gradcheck(loss, (warped.requires_grad_(),), fast_mode=True)


@each
def test_an_image_agrees_with_itself_best(similarity, reach):
    image, other = volume(5, (16, 18, 20)), volume(6, (16, 18, 20))
    own = similarity(image, image).item()
    # Flat background counts as uncorrelated, hence not 0 for the correlations.
    assert 0 <= own < similarity(other, image).item()


@each
def test_the_whole_mask_is_no_mask(similarity, reach):
    warped, fixed = random_images(2, channels=2)
    everything = torch.full((1, 1, *SMALL), 7)
    expected = similarity(warped, fixed).item()
    assert similarity(warped, fixed, everything).item() == pytest.approx(expected, abs=1e-12)


@each
def test_every_value_of_a_mask_but_zero_counts_alike(similarity, reach):
    warped, fixed = random_images(2)
    labels = torch.randint(0, 4, (1, 1, *SMALL), generator=torch.Generator().manual_seed(0))
    expected = similarity(warped, fixed, labels > 0).item()
    assert similarity(warped, fixed, labels).item() == expected


@each
def test_what_lies_beyond_the_windows_of_the_mask_has_no_influence(similarity, reach):
    warped, fixed, noise = random_images(3, (9, 10, 17))
    mask = torch.zeros(1, 1, 9, 10, 17)
    mask[..., :5] = 1
    if isinstance(similarity, MIND):
        # Its clamp is relative to the whole image: make sure that it doesn't act.
        warped, fixed, noise = (1 + 0.2 * x for x in (warped, fixed, noise))
    changed = warped.clone()
    changed[..., 5 + reach :] = noise[..., 5 + reach :]
    before = similarity(warped, fixed, mask).item()
    assert similarity(changed, fixed, mask).item() == pytest.approx(before, abs=1e-12)
    changed[..., 4] = noise[..., 4]
    assert abs(similarity(changed, fixed, mask).item() - before) > 1e-6


@each
def test_masked_means_are_taken_per_sample(similarity, reach):
    warped, fixed = (torch.cat(random_images(2, seed=seed)) for seed in (1, 2))
    warped[1] *= 1e-3  # a sample of little contrast must not feel its neighbour's
    mask = torch.zeros(2, 1, *SMALL)
    mask[0, :, :2] = 1
    mask[1, :, :, 1:] = 1
    single = [similarity(warped[i, None], fixed[i, None], mask[i, None]) for i in range(2)]
    both = similarity(warped, fixed, mask)
    assert both.item() == pytest.approx(torch.stack(single).mean().item(), abs=1e-12)


@each
def test_an_empty_mask_gives_no_gradient(similarity, reach):
    warped, fixed = random_images(2)
    loss = similarity(warped.requires_grad_(), fixed, torch.zeros(1, 1, *SMALL))
    (gradient,) = torch.autograd.grad(loss, warped)
    assert loss.item() in (0.0, 1.0)
    assert not gradient.any()


@each
def test_channels_are_averaged(similarity, reach):
    warped, fixed = random_images(2, channels=2)
    single = [similarity(warped[:, c, None], fixed[:, c, None]).item() for c in range(2)]
    assert similarity(warped, fixed).item() == pytest.approx(sum(single) / 2, abs=1e-12)


@each
def test_a_bound_loss_serves_many_warped_images(similarity, reach):
    fixed, *warped = random_images(3)
    bound = similarity.bind(fixed)
    assert [bound(w).item() for w in warped] == [similarity(w, fixed).item() for w in warped]


@each
def test_a_constant_image_gives_finite_values_and_gradients(similarity, reach):
    # All of the moving image may leave the field of view, and then zeros are warped in.
    warped, fixed = torch.zeros(1, 1, *SMALL, requires_grad=True), volume(3, SMALL)
    loss = similarity(warped, fixed)
    (gradient,) = torch.autograd.grad(loss, warped)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


@each
def test_bright_flat_regions_do_not_give_roots_of_negative_variances(similarity, reach):
    image = 100 + 1e-4 * volume(3, (16, 16, 16))
    assert torch.isfinite(similarity(image.requires_grad_(), image.detach() + 7))


@each
def test_half_precision_images_are_compared_in_full_precision(similarity, reach):
    warped, fixed = (volume(seed, (12, 12, 12)).to(torch.bfloat16) for seed in (1, 2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = similarity(warped, fixed)
    assert loss.dtype == torch.float32
    assert loss.item() == similarity(warped.float(), fixed.float()).item()


@each
def test_shapes_that_do_not_fit_are_refused(similarity, reach):
    warped, fixed = random_images(2)
    with pytest.raises(GeometryError, match=r"\(1, 1, 1, 9, 8\)"):
        similarity(warped[:, :, :1], fixed)
    with pytest.raises(GeometryError, match="mask"):
        similarity(warped, fixed, torch.ones(1, 2, *SMALL))


@pytest.mark.parametrize("similarity", [LNCC(2.0), SquaredLNCC(2.0), WindowedNCC(5)])
def test_correlations_do_not_see_contrast_and_brightness(similarity):
    # The 1e-5 beside the variances matters only where the images are almost flat. Away from the
    # border, that is, where zeros come in: there brightness is seen.
    size = (16, 16, 16)
    warped, fixed = random_images(2, size)
    mask = torch.zeros(1, 1, *size)
    mask[..., 4:-4, 4:-4, 4:-4] = 1
    expected = similarity(warped, fixed, mask).item()
    assert similarity(3 * warped + 0.5, fixed, mask).item() == pytest.approx(expected, abs=1e-3)


def test_only_lncc_sees_the_sign_of_the_relation():
    (image,) = random_images(1, (16, 16, 16))
    inverted = -image
    assert LNCC(2.0)(image, image).item() < 0.05
    assert LNCC(2.0)(inverted, image).item() > 1.95
    assert SquaredLNCC(2.0)(inverted, image).item() < 0.05
    assert WindowedNCC(5)(inverted, image).item() < 0.05


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: LNCC(0), "sigma"),
        (lambda: SquaredLNCC(float("nan")), "sigma"),
        (lambda: WindowedNCC(4), "window"),
        (lambda: MIND(radius=0), "radius"),
        (lambda: MIND(dilation=0), "dilation"),
    ],
)
def test_impossible_parameters_are_refused(make, name):
    with pytest.raises(PlanError, match=name):
        make()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("similarity", "masked", "value", "gradient_norm"), GOLDEN)
def test_the_published_value_and_gradient_on_cuda(similarity, masked, value, gradient_norm):
    warped, fixed = volume(11, SHAPE).cuda().requires_grad_(), volume(22, SHAPE).cuda()
    loss = similarity(warped, fixed, (volume(44, SHAPE) > 0.3).cuda() if masked else None)
    (gradient,) = torch.autograd.grad(loss, warped)
    assert loss.item() == pytest.approx(value, abs=1e-5)
    assert gradient.double().norm().item() == pytest.approx(gradient_norm, rel=1e-3)
