"""The encoders against torch's own convolution and against cebra's, and the bins that they look at."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional

from lvmzoo.errors import UserError
from lvmzoo.parts.encoders import BinConvolution, OffsetEncoder, ResampledInput, kernels


@pytest.mark.parametrize(
    ("bins", "expected"),
    [(5, (2, 3, 2)), (10, (2, 3, 3, 3, 3)), (15, (2, *[3] * 6, 2)), (36, (2, *[3] * 16, 3))],
)
def test_published_encoders(bins: int, expected: tuple[int, ...]) -> None:
    assert kernels(bins) == expected


@pytest.mark.parametrize("bins", range(1, 41))
def test_receptive_field_is_what_was_asked_for(bins: int) -> None:
    assert 1 + sum(kernel - 1 for kernel in kernels(bins)) == bins
    encoder = OffsetEncoder(3, 4, 2, bins).double()
    activity = torch.randn(bins + 3, 1, 3, dtype=torch.float64, requires_grad=True)
    vectors = encoder(activity)
    assert vectors.shape == (4, 1, 2)
    (gradient,) = torch.autograd.grad(vectors[1].sum(), activity)
    assert torch.equal(gradient.abs().sum((1, 2)) > 0, torch.tensor([False] + [True] * bins + [False] * 2))


def test_convolution_equals_conv1d() -> None:
    layer = BinConvolution(6, 5, 3).double()
    signal = torch.randn(9, 7, 6, dtype=torch.float64)
    expected = functional.conv1d(signal.permute(1, 2, 0), layer.weight.permute(2, 1, 0), layer.bias).permute(2, 0, 1)
    torch.testing.assert_close(layer(signal), expected, rtol=1e-12, atol=1e-12)


def test_encoder_equals_a_stack_of_conv1d() -> None:
    encoder = OffsetEncoder(6, 5, 2, 10).double()
    signal = torch.randn(14, 3, 6, dtype=torch.float64)

    def conv(layer: BinConvolution, value: torch.Tensor) -> torch.Tensor:
        return functional.conv1d(value, layer.weight.permute(2, 1, 0), layer.bias)

    hidden = functional.gelu(conv(encoder.first, signal.permute(1, 2, 0)))
    for layer in encoder.body.middle:
        hidden = functional.gelu(conv(layer, hidden)) + hidden[..., 1:-1]
    expected = conv(encoder.body.last, hidden).permute(2, 0, 1)
    torch.testing.assert_close(encoder(signal), expected, rtol=1e-12, atol=1e-12)


def test_gradients_of_the_convolution() -> None:
    layer = BinConvolution(4, 3, 3).double()
    signal = torch.randn(6, 2, 4, dtype=torch.float64, requires_grad=True)

    def convolve(value: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (value,))

    inputs = (signal, layer.weight.detach().requires_grad_(), layer.bias.detach().requires_grad_())
    assert torch.autograd.gradcheck(convolve, inputs)
    assert torch.autograd.gradgradcheck(convolve, inputs)


def test_half_precision_by_autocast() -> None:
    encoder = OffsetEncoder(6, 8, 3, 10)
    signal = torch.randn(10, 30, 6)
    exact = encoder(signal)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = encoder(signal)
    assert coarse.dtype is torch.bfloat16
    torch.testing.assert_close(coarse.float(), exact, rtol=0.05, atol=0.05)
    coarse.float().sum().backward()
    assert encoder.first.weight.grad.dtype is torch.float32


# --- the same numbers as cebra's models, with its weights


def convolutions(encoder: OffsetEncoder) -> Iterator[BinConvolution]:
    if isinstance(encoder.first, ResampledInput):
        yield from (encoder.first.fine, encoder.first.coarse)
    else:
        yield encoder.first
    yield from [layer for layer in encoder.body.middle if isinstance(layer, BinConvolution)]
    yield encoder.body.last


@pytest.mark.parametrize(
    ("name", "bins", "resample"),
    [
        ("offset5-model", 5, False),
        ("offset10-model", 10, False),
        ("offset15-model", 15, False),
        ("offset36-model", 36, False),
        ("offset20-model-4x-subsample", 20, True),
        ("offset40-model-4x-subsample", 40, True),
    ],
)
def test_cebras_weights_give_cebras_vectors(name: str, bins: int, resample: bool) -> None:
    cebra = pytest.importorskip("cebra.models")
    torch.manual_seed(0)
    theirs = cebra.init(name, 7, 8, 3).double()
    assert len(theirs.get_offset()) == bins
    ours = OffsetEncoder(7, 8, 3, bins, resample).double()
    sources = [layer for layer in theirs.modules() if isinstance(layer, nn.Conv1d)]
    for layer, source in zip(convolutions(ours), sources, strict=True):
        layer.weight.data = source.weight.data.permute(2, 1, 0).contiguous()
        layer.bias.data = source.bias.data
    windows = torch.randn(bins, 11, 7, dtype=torch.float64)
    expected = theirs(windows.permute(1, 2, 0))
    found = functional.normalize(ours(windows), dim=-1)
    assert found.shape == (1, 11, 3)
    torch.testing.assert_close(found[0], expected, rtol=1e-10, atol=1e-10)


# --- resampling


@pytest.mark.parametrize("bins", [8, 12, 20, 40])
def test_a_resampling_encoder_gives_every_bin_what_its_window_gives(bins: int) -> None:
    encoder = OffsetEncoder(3, 4, 2, bins, resample=True).double()
    activity = torch.randn(bins + 6, 2, 3, dtype=torch.float64)
    whole = encoder(activity)
    assert whole.shape == (7, 2, 2)
    for start in range(7):
        torch.testing.assert_close(whole[start], encoder(activity[start : start + bins])[0], rtol=1e-12, atol=1e-12)


def test_a_resampling_encoder_sees_all_its_bins_and_no_other() -> None:
    encoder = OffsetEncoder(3, 4, 2, 20, resample=True).double()
    activity = torch.randn(22, 1, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(encoder(activity)[1].sum(), activity)
    assert torch.equal(gradient.abs().sum((1, 2)) > 0, torch.tensor([False] + [True] * 20 + [False]))


@pytest.mark.parametrize("bins", [4, 10, 42])
def test_a_resampling_encoder_needs_a_multiple_of_four(bins: int) -> None:
    with pytest.raises(UserError, match="multiple of 4"):
        OffsetEncoder(3, 4, 2, bins, resample=True)


@pytest.mark.parametrize(("stride", "dilation"), [(2, 1), (1, 2), (2, 3)])
def test_strides_and_dilations_equal_conv1d_with_gradients(stride: int, dilation: int) -> None:
    layer = BinConvolution(4, 3, 3).double()
    signal = torch.randn(12, 2, 4, dtype=torch.float64, requires_grad=True)
    expected = functional.conv1d(
        signal.permute(1, 2, 0), layer.weight.permute(2, 1, 0), layer.bias, stride=stride, dilation=dilation
    ).permute(2, 0, 1)
    found = layer(signal, stride=stride, dilation=dilation)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    along = torch.randn_like(found)
    parameters = (signal, layer.weight, layer.bias)
    for one, other in zip(
        torch.autograd.grad(found, parameters, along), torch.autograd.grad(expected, parameters, along), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
