import pytest
import torch

from autoreg.networks.unet import TallUNet, pool


def test_pooling_averages_pairs_and_leaves_an_odd_last_voxel_alone():
    row = torch.tensor([1.0, 2, 3, 4, 5])
    for axis in range(3):
        shape = [1, 1, 1, 1, 1]
        shape[axis + 2] = 5
        assert pool(row.reshape(shape)).flatten().tolist() == [1.5, 3.5, 5.0]


def test_parameters_have_the_published_shapes():
    with torch.device("meta"):
        unet = TallUNet(1, 1.0)
    assert sum(p.numel() for p in unet.parameters()) == 17_670_229
    assert [tuple(c.weight.shape[:2]) for c in unet.downConvs] == [
        (16, 2), (32, 16), (64, 32), (256, 64), (512, 256),
    ]  # fmt: skip
    assert [tuple(c.weight.shape[:2]) for c in unet.upConvs] == [
        (48, 16), (96, 32), (192, 64), (512, 128), (512, 256),
    ]  # fmt: skip
    assert tuple(unet.lastConv.weight.shape) == (3, 18, 3, 3, 3)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 17, 5), (2, 3, 31), (33, 8, 1), (16, 16, 16)])
@pytest.mark.parametrize("train", [True, False])
def test_any_shape_works(shape, train):
    unet = TallUNet(1, 0.125).train(train)
    torch.nn.init.normal_(unet.lastConv.weight)
    images = torch.rand(2, 1, 1, *shape)
    displacement = unet(*images)
    assert displacement.shape == (1, 3, *shape)
    assert torch.isfinite(displacement).all()
    assert displacement.abs().max() > 0
    displacement.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in unet.parameters())


def test_moving_channels_come_first():
    torch.manual_seed(0)
    unet = TallUNet(3, 0.125).eval()
    assert unet.downConvs[0].weight.shape[1] == 6
    # The last layer's inputs end with the images: pick one of them out.
    moving, fixed = torch.rand(1, 3, 6, 7, 8), torch.rand(1, 3, 6, 7, 8)
    for channel, image in ((0, moving[:, 0]), (2, moving[:, 2]), (3, fixed[:, 0])):
        torch.nn.init.zeros_(unet.lastConv.weight)
        with torch.no_grad():
            unet.lastConv.weight[0, channel - 6, 1, 1, 1] = 1
        torch.testing.assert_close(unet(moving, fixed)[:, 0], image / 10)


def test_the_batch_norm_sees_what_is_cropped_afterwards():
    unet = TallUNet(1, 0.125).train()
    sizes = []
    unet.batchNorms[0].register_forward_hook(lambda _m, _i, out: sizes.append(out.shape[2:]))
    unet(torch.rand(1, 1, 5, 6, 7), torch.rand(1, 1, 5, 6, 7))
    assert sizes == [(6, 6, 8)]
