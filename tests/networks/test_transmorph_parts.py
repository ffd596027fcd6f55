import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional

from autoreg.networks.transmorph_attention import (
    WindowAttention,
    assemble,
    padded_to_multiple,
    partition,
    relative_position_index,
)
from autoreg.networks.transmorph_decoder import NormalisedActivation, convolve_doubled, doubled
from autoreg.networks.transmorph_encoder import PatchMerging, Stage, SwinBlock, SwinTransformer


def test_windows_are_cut_and_put_back_together():
    tokens = torch.randn(2, 4, 6, 10, 3)
    windows = partition(tokens, (2, 3, 5))
    assert windows.shape == (2, 8, 30, 3)
    assert torch.equal(windows[1, 5].reshape(2, 3, 5, 3), tokens[1, 2:4, :3, 5:])
    assert torch.equal(assemble(windows, (4, 6, 10), (2, 3, 5)), tokens)


def test_relative_positions_count_from_query_to_key():
    index = relative_position_index((2, 3, 2))
    assert index.shape == (12, 12)
    assert index.unique().numel() == 3 * 5 * 3
    # The first token as query, the last one as key: every component is at its least.
    assert index[0, -1] == 0
    assert index[-1, 0] == 3 * 5 * 3 - 1
    # One step of the query along each axis.
    centre = index[0, 0].item()
    assert [index[k, 0].item() - centre for k in (6, 2, 1)] == [5 * 3, 3, 1]


def dense_attention(attention, tokens, window, shift):
    """All tokens at once; those of different (shifted) windows don't see each other."""
    batch, *grid, channels = tokens.shape
    axes = [torch.arange(n) for n in grid]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    cells = (places - torch.tensor(shift)).div(torch.tensor(window), rounding_mode="floor")
    together = (cells[:, None] == cells[None]).all(-1)
    delta = (places[:, None] - places[None]).masked_fill(~together[..., None], 0)
    spans = [2 * n - 1 for n in window]
    delta = delta + torch.tensor(window) - 1
    row = (delta[..., 0] * spans[1] + delta[..., 1]) * spans[2] + delta[..., 2]
    heads = attention.relative_position_bias_table.shape[1]
    bias = attention.relative_position_bias_table[row].permute(2, 0, 1)
    bias = bias.masked_fill(~together, float("-inf"))
    q, k, v = attention.qkv(tokens.reshape(batch, -1, channels)).chunk(3, -1)
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    scores = torch.einsum("bhid,bhjd->bhij", q, k) / q.shape[-1] ** 0.5 + bias
    mixed = torch.einsum("bhij,bhjd->bhid", scores.softmax(-1), v)
    return attention.proj(mixed.transpose(1, 2).flatten(2)).reshape(tokens.shape)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize(
    ("grid", "window", "shifted"),
    [
        ((4, 6, 6), (2, 3, 2), False),
        ((6, 6, 6), (2, 3, 2), True),
        ((2, 6, 4), (2, 3, 4), True),  # one window along two axes: still shifted and masked
        ((6, 6, 4), (3, 2, 1), True),  # no shift along an axis: none at all, as published
    ],
)
def test_attention_in_rolled_windows_is_attention_in_shifted_windows(grid, window, shifted, grad):
    torch.manual_seed(0)
    stage = Stage(8, 2, 2, window, iter([0.0, 0.0]), merging=False).double().eval()
    block = stage.blocks[int(shifted)]
    torch.nn.init.normal_(block.attn.relative_position_bias_table)
    tokens = torch.randn(2, *grid, 8, dtype=torch.float64)
    shift = [n // 2 if shifted and min(window) > 1 else 0 for n in window]
    with torch.set_grad_enabled(grad):
        attended = tokens + dense_attention(block.attn, block.norm1(tokens), window, shift)
        expected = attended + block.mlp(block.norm2(attended))
        found = block(tokens, stage._groups(tokens))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_padding_tokens_take_a_share_of_the_attention():
    """As published: a window half of zeros differs from one without them."""
    torch.manual_seed(0)
    attention = WindowAttention(4, (2, 2, 2), 1).eval()
    torch.nn.init.zeros_(attention.relative_position_bias_table)
    torch.nn.init.zeros_(attention.proj.bias)
    tokens = torch.randn(1, 1, 2, 2, 4)
    padded = padded_to_multiple(tokens, (2, 2, 2))
    assert padded.shape == (1, 2, 2, 2, 4)
    assert not padded[:, 1].any()
    with torch.no_grad():
        torch.nn.init.zeros_(attention.qkv.weight[:4])  # all scores 0: the mean of the values
        found = attention(partition(padded, (2, 2, 2)), None)[0, 0, 0]
        values = functional.linear(tokens.reshape(4, 4), attention.qkv.weight[8:])
        expected = functional.linear(values.sum(0) / 8, attention.proj.weight)
    torch.testing.assert_close(found, expected)


def test_merging_lines_corners_up_in_the_published_order():
    merging = PatchMerging(1)
    merging.norm = torch.nn.Identity()
    merging.reduction = torch.nn.Identity()
    tokens = torch.arange(8.0).reshape(1, 2, 2, 2, 1)  # value = 4 d + 2 h + w
    assert merging(tokens).flatten().tolist() == [0, 4, 2, 1, 6, 3, 5, 7]


def test_branches_are_dropped_whole_and_survivors_scaled():
    torch.manual_seed(0)
    block = SwinBlock(4, 1, (2, 2, 2), None, 0.4).train()
    torch.nn.init.zeros_(block.mlp.fc2.weight)
    torch.nn.init.zeros_(block.mlp.fc2.bias)
    tokens = torch.randn(1, 2, 2, 2, 4).expand(400, -1, -1, -1, -1)
    with torch.no_grad():
        branch = block.eval()(tokens, None)[0] - tokens[0]
        change = block.train()(tokens, None) - tokens
    share = change[:, 0, 0, 0, 0] / branch[0, 0, 0, 0]
    dropped = share.abs() < 1e-4
    torch.testing.assert_close(share[~dropped], torch.full_like(share[~dropped], 1 / 0.6))
    torch.testing.assert_close(change[~dropped][0], branch / 0.6, rtol=0, atol=1e-5)
    assert 0.3 < dropped.float().mean() < 0.5


def test_drop_rates_rise_linearly_over_all_blocks():
    transformer = SwinTransformer(2, 4, (2, 3), (1, 1), (2, 2, 2), 0.3)
    rates = [block._drop_rate for stage in transformer.layers for block in stage.blocks]
    assert rates == pytest.approx([0.0, 0.075, 0.15, 0.225, 0.3])


@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 2, 1)])
def test_convolution_of_doubled_features_and_its_gradients(shape):
    torch.manual_seed(0)
    x = torch.randn(2, 2, *shape, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 2, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    expected = functional.conv3d(doubled(x), weight, padding=1)
    torch.testing.assert_close(convolve_doubled(x, weight), expected)
    assert gradcheck(convolve_doubled, (x, weight), fast_mode=True)


def test_normalised_activation_and_its_gradient():
    torch.manual_seed(0)
    x = (3 + 5 * torch.randn(2, 3, 2, 3, 4, dtype=torch.float64)).requires_grad_()
    expected = functional.leaky_relu(functional.instance_norm(x, eps=1e-5), 0.01)
    activation = NormalisedActivation()
    torch.testing.assert_close(activation(x), expected)
    assert gradcheck(activation, (x,))


def test_normalised_activation_keeps_nothing_but_its_result():
    kept = []
    x = torch.randn(2, 3, 4, 4, 4, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = NormalisedActivation()(x)
    assert [t.data_ptr() for t in kept if t.numel() >= x.numel()] == [y.data_ptr()]
