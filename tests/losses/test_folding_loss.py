import numpy as np
import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from autoreg.evaluation.fields import ndv
from autoreg.losses import folding
from autoreg.losses.folding import folded_volume


def random_field(shape, scale, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(batch, 3, *shape, generator=generator, dtype=torch.float64)


def test_it_is_the_volume_that_the_evaluation_reports():
    u = random_field((7, 9, 8), 0.6, batch=2)
    volumes = [ndv(one).volume_vox for one in u]
    assert min(volumes) > 1
    assert folded_volume(u).item() == pytest.approx(np.mean(volumes), rel=1e-12)


def test_a_mirrored_axis_folds_everywhere():
    u = torch.zeros(1, 3, 6, 5, 7, dtype=torch.float64)
    u[0, 1] = (4 - 2 * torch.arange(5.0)).view(1, 5, 1)
    assert folded_volume(u).item() == pytest.approx(4 * 3 * 5)


def test_what_does_not_fold_has_neither_value_nor_gradient():
    u = random_field((6, 6, 6), 0.05).requires_grad_()
    volume = folded_volume(u)
    assert volume.item() == 0
    assert not torch.autograd.grad(volume, u)[0].any()
    flat = random_field((2, 6, 6), 3.0).requires_grad_()
    assert folded_volume(flat).item() == 0
    assert not torch.autograd.grad(folded_volume(flat), flat)[0].any()


def test_gradients_are_right_and_the_slabs_do_not_show(monkeypatch):
    u = random_field((6, 4, 5), 0.8).requires_grad_()
    whole = folded_volume(u)
    (gradient,) = torch.autograd.grad(whole, u)
    monkeypatch.setattr(folding, "_SLAB_VOXELS", 20)  # a single layer each
    in_slabs = folded_volume(u)
    torch.testing.assert_close(in_slabs, whole)
    torch.testing.assert_close(torch.autograd.grad(in_slabs, u)[0], gradient)
    assert torch.autograd.gradcheck(folded_volume, (u[:, :, :4, :3, :4].detach().requires_grad_(),))


def test_descending_unfolds():
    u = random_field((6, 6, 6), 0.5).requires_grad_()
    optimiser = torch.optim.Adam([u], lr=0.02)
    before = folded_volume(u).item()
    for _ in range(150):
        optimiser.zero_grad()
        folded_volume(u).backward()
        optimiser.step()
    assert before > 1
    assert folded_volume(u).item() < 0.02 * before


def test_the_graph_keeps_the_field_and_no_determinants():
    u = random_field((24, 20, 20), 0.5).requires_grad_()
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        folded_volume(u)
    assert sum(kept.values()) <= 1.1 * u.numel() * 8
