"""The quick proof that a displacement does not fold, against the exact measures."""

import pytest
import torch

from autoreg.evaluation.fields import ndv
from autoreg.numerics.fold_scan import surely_unfolded
from autoreg.numerics.folding import folded_cells


def smooth(amplitude, shape=(12, 13, 14), seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 3, 5, 5, 5, generator=generator)
    return amplitude * torch.nn.functional.interpolate(coarse, shape, mode="trilinear")


def folds(u_vox):
    return len(folded_cells(u_vox).lower_vox) > 0 or ndv(u_vox[0]).folded_tetrahedra > 0


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("amplitude", [0.2, 1.0, 1.6, 2.5])
def test_what_is_proven_not_to_fold_does_not(amplitude, seed):
    u_vox = smooth(amplitude, seed=seed)
    if surely_unfolded(u_vox):
        assert not folds(u_vox)
    else:
        assert amplitude > 0.2


def test_one_fold_anywhere_is_seen():
    for node in ((0, 0, 0), (5, 6, 7), (11, 12, 13), (0, 6, 13)):
        u_vox = torch.zeros(1, 3, 12, 13, 14)
        u_vox[0, 2][node] = 1.2 if node[2] < 13 else -1.2
        assert not surely_unfolded(u_vox)


def test_a_single_layer_is_scanned_in_its_plane():
    u_vox = smooth(0.3, (1, 13, 14))
    u_vox[:, 0] = 0
    assert surely_unfolded(u_vox)
    u_vox[0, 1, 0, 6, 7] += 1.5
    assert not surely_unfolded(u_vox)
    assert ndv(u_vox[0]).folded_tetrahedra > 0


def test_what_is_no_number_proves_nothing():
    u_vox = torch.zeros(1, 3, 6, 6, 6)
    u_vox[0, 0, 3, 3, 3] = float("nan")
    assert not surely_unfolded(u_vox)
