"""The factored arrow against dense linear algebra."""

from __future__ import annotations

import pytest
import torch

from lvmzoo.inference.delayed_arrow import Arrow


@pytest.mark.parametrize(("hub", "arms"), [(3, (4, 2)), (2, (3, 0, 5)), (0, (3, 2)), (4, (0, 0))])
def test_the_arrow_equals_the_whole(hub: int, arms: tuple[int, ...]) -> None:
    """Also without a hub, and with empty arms."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    total = hub + sum(arms)
    whole = torch.eye(total, dtype=torch.float64)
    borders, blocks, first = [], [], hub
    for size in arms:
        root = normal(hub + size, hub + size)
        place = torch.cat([torch.arange(hub), torch.arange(first, first + size)])
        whole[place[:, None], place] += root @ root.T
        first += size
    first = hub
    for size in arms:
        own = slice(first, first + size)
        borders.append(whole[own, :hub])
        blocks.append(whole[own, own])
        first += size
    arrow = Arrow(whole[:hub, :hub], borders, blocks)
    values = normal(total, 3)
    half, solved = arrow.half(values), torch.linalg.solve(whole, values)
    torch.testing.assert_close(arrow.log_determinant, torch.logdet(whole))
    torch.testing.assert_close(half.T @ half, values.T @ solved)
    torch.testing.assert_close(arrow.rest(half), solved)
    torch.testing.assert_close(arrow.inverse(), torch.linalg.inv(whole))
