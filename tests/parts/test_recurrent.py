"""Encoders of ragged trials against one trial at a time."""

from __future__ import annotations

import torch

from lvmzoo.parts.recurrent import BidirectionalEncoder, lagged


def test_padding_is_never_looked_at() -> None:
    torch.manual_seed(0)
    encoder = BidirectionalEncoder(3, 5).double()
    lengths = torch.tensor([4, 9, 1])
    signal = torch.randn(9, 3, 3, dtype=torch.float64)
    states, last = encoder(signal, lengths)
    for trial, length in enumerate(lengths.tolist()):
        alone, alone_last = encoder(signal[:length, trial : trial + 1], torch.tensor([length]))
        torch.testing.assert_close(states[:length, trial], alone[:, 0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(last[trial], alone_last[0], rtol=1e-12, atol=1e-12)
        assert not states[length:, trial].any()
        assert torch.equal(alone_last[0], torch.cat([alone[-1, 0, :5], alone[0, 0, 5:]]))


def test_a_code_does_not_hold_its_own_bin() -> None:
    torch.manual_seed(0)
    encoder = BidirectionalEncoder(3, 5)
    signal = torch.randn(9, 1, 3, requires_grad=True)
    codes = lagged(encoder(signal, torch.tensor([9]))[0])
    (gradient,) = torch.autograd.grad(codes[4].sum(), signal)
    used = gradient.abs().sum((1, 2)) > 0
    assert used.tolist() == [True] * 4 + [False] + [True] * 4
