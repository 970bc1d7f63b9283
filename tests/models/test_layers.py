import pytest
import torch
from torch.nn import functional as F

from unihpe_fast.models.layers import FullPrecisionLinear, ResidualMLP, TransformerBlock


def test_autocast_leaves_the_full_precision_layer_alone() -> None:
    torch.manual_seed(0)
    layer = FullPrecisionLinear(64, 64)
    x = torch.randn(4, 64)
    with torch.autocast("cpu", torch.bfloat16):
        inside = layer(x)
        rounded = torch.nn.Linear.forward(layer, x)
    assert torch.equal(inside, layer(x))
    # the plain layer would have been rounded: the test can fail
    assert rounded.dtype == torch.bfloat16
    assert layer.double()(x.double()).dtype == torch.float64


def test_residual_mlp_is_the_published_recurrence() -> None:
    torch.manual_seed(0)
    mlp = ResidualMLP(7, 16, 2).double()
    x = torch.randn(5, 7, dtype=torch.float64)
    state = mlp.state_dict()
    hidden = x @ state["input.weight"].T + state["input.bias"]
    for block in range(2):
        weights = {k.removeprefix(f"blocks.{block}."): v for k, v in state.items() if k.startswith(f"blocks.{block}.")}
        y = F.layer_norm(hidden, (16,), weights["0.weight"], weights["0.bias"])
        y = F.gelu(y @ weights["1.weight"].T + weights["1.bias"])
        hidden = hidden + y @ weights["4.weight"].T + weights["4.bias"]
    hidden = F.layer_norm(hidden, (16,), state["norm.weight"], state["norm.bias"])
    torch.testing.assert_close(mlp(x), hidden)


def test_attention_is_softmax_of_scaled_products() -> None:
    torch.manual_seed(0)
    block = TransformerBlock(12, heads=3).double()
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    q, k, v = block.qkv(block.norm_attention(x)).split(12, dim=-1)
    heads = []
    for head in range(3):
        part = slice(4 * head, 4 * head + 4)
        scores = q[..., part] @ k[..., part].transpose(1, 2) / 2  # sqrt(4)
        heads.append(scores.softmax(-1) @ v[..., part])
    attended = x + block.projection(torch.cat(heads, dim=-1))
    torch.testing.assert_close(block(x), attended + block.mlp(attended))


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="width 10 must be a multiple of heads 4"):
        TransformerBlock(10, heads=4)


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    for module, x in (
        (ResidualMLP(8, 32, 1, dropout=0.5), torch.randn(3, 8)),
        (TransformerBlock(8, 2, dropout=0.5), torch.randn(3, 4, 8)),
    ):
        assert not torch.equal(module(x), module(x))
        module.eval()
        assert torch.equal(module(x), module(x))
