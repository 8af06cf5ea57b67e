"""The reverse-time encoder against a loop of one step at a time."""

from __future__ import annotations

import math

import torch

from lvmzoo.parts.reverse_encoder import ReverseEncoder


def made(channels=3, hidden=4):
    torch.manual_seed(0)
    return ReverseEncoder(channels, hidden).double()


def test_it_visits_what_was_seen_from_the_end_and_says_how_many_bins_it_passed_over():
    encoder = made()
    features = torch.randn(2, 7, 3, dtype=torch.float64)
    seen = torch.zeros(2, 7, dtype=torch.bool)
    seen[0, [0, 2, 3, 6]] = True
    seen[1, [4]] = True  # and the first bin, which is visited in any case
    found = encoder(features, seen)
    for trial, visits in ((0, [(6, 0), (3, 2), (2, 0), (0, 1)]), (1, [(4, 0), (0, 3)])):
        state = torch.zeros(1, 1, 4, dtype=torch.float64)
        for when, skipped in visits:
            step = torch.cat([features[trial, when], torch.tensor([math.log1p(skipped)], dtype=torch.float64)])
            _, state = encoder.network(step[None, None], state)
        torch.testing.assert_close(found[trial], state[0, 0])


def test_padding_other_trials_and_what_was_not_seen_change_nothing():
    encoder = made()
    features = torch.randn(3, 6, 3, dtype=torch.float64)
    seen = torch.rand(3, 6, generator=torch.Generator().manual_seed(1)) < 0.5
    seen[2] = False
    found = encoder(features, seen)
    padded = torch.cat([features, torch.randn(3, 5, 3, dtype=torch.float64)], 1)
    torch.testing.assert_close(encoder(padded, torch.cat([seen, torch.zeros(3, 5, dtype=torch.bool)], 1)), found)
    dirty = features + 7 * (~seen).unsqueeze(-1)
    dirty[:, 0] = features[:, 0]
    torch.testing.assert_close(encoder(dirty, seen), found)
    torch.testing.assert_close(encoder(features[1:2], seen[1:2]), found[1:2])
