import pytest
import torch
from golden_inputs import volume

from autoreg.losses import similarity as similarity_module
from autoreg.losses.mind import mind_descriptor
from autoreg.losses.similarity import LNCC
from autoreg.losses.window import Window, box_window, gaussian_window


def test_the_published_gaussian():
    taps = gaussian_window(torch.zeros(1, 1, 40, 1, 1), 5.0).matrices[0][20]
    expected = {10: 0.011194726452231407, 15: 0.05017128586769104, 20: 0.08271846920251846}
    assert {i: taps[i].item() for i in expected} == pytest.approx(expected, abs=1e-8)
    assert taps.nonzero().flatten().tolist() == list(range(10, 31))
    assert taps.sum().item() == pytest.approx(1)


def test_the_published_smoothing():
    image = volume(11, (32, 32, 32))
    total = gaussian_window(image, 5.0)(image).double().sum().item()
    assert total == pytest.approx(3337.84577937657, rel=1e-7)


def test_smoothing_is_separable_convolution_on_any_shape():
    image = torch.rand(2, 3, 6, 21, 9, generator=torch.Generator().manual_seed(0)).double()
    window = gaussian_window(image, 1.5)
    taps = window.matrices[1][10, 7:14]
    expected = image.flatten(0, 1)[:, None]
    for axis in range(3):
        kernel = taps.view([-1 if i == axis + 2 else 1 for i in range(5)])
        expected = torch.nn.functional.conv3d(expected, kernel, padding="same")
    assert torch.allclose(window(image), expected.view_as(image), atol=1e-14)


def test_a_box_with_replicated_border_is_a_padded_average():
    image = torch.rand(1, 2, 4, 6, 9, generator=torch.Generator().manual_seed(0)).double()
    padded = torch.nn.functional.pad(image, (3,) * 6, mode="replicate")
    expected = torch.nn.functional.avg_pool3d(padded, 7, stride=1)
    assert torch.allclose(box_window(image, 7, "replicate")(image), expected, atol=1e-14)


def test_the_published_mind_descriptor():
    image = volume(11, (32, 32, 32))
    sums = mind_descriptor(image, box_window(image, 5, "replicate"), 2).double().sum((0, 2, 3, 4))
    expected = [
        16604.544480657205, 17912.77977199573, 16368.02669567801, 17757.274891410954,
        16043.788657979108, 16714.57700223103, 15308.940757298842, 14427.77456060797,
        18026.444478226826, 15850.063374727964, 15782.79689006973, 14493.826063310727,
    ]  # fmt: skip
    assert sums.tolist() == pytest.approx(expected, rel=1e-6)


def test_lncc_smooths_five_volumes_of_which_binding_takes_two(monkeypatch):
    smoothed = []

    class Counting(Window):
        def __call__(self, volume):
            smoothed.append(1)
            return super().__call__(volume)

    def counting_window(*arguments):
        return Counting(gaussian_window(*arguments).matrices)

    monkeypatch.setattr(similarity_module, "gaussian_window", counting_window)
    fixed, warped = volume(1, (8, 8, 8)), volume(2, (8, 8, 8))
    loss = LNCC().bind(fixed)
    assert len(smoothed) == 2
    loss(warped)
    assert len(smoothed) == 5
