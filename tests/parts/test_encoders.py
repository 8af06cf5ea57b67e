"""The offset encoder against torch's own convolution, and the bins that it looks at."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from lvmzoo.parts.encoders import BinConvolution, OffsetEncoder, kernels


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
    for layer in encoder.middle:
        hidden = functional.gelu(conv(layer, hidden)) + hidden[..., 1:-1]
    expected = conv(encoder.last, hidden).permute(2, 0, 1)
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
