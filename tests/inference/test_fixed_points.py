"""Fixed points against maps whose fixed points and linearization are known by hand."""

from __future__ import annotations

import math

import pytest
import torch

from lvmzoo.inference.fixed_points import fixed_points, jacobians, modes


def starts(count=40, latents=2, seed=0, dtype=torch.float64):
    return torch.randn(count, latents, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def bistable(z, step=0.05):
    """dx/dt = x - x^3, dy/dt = -y: stable at x = -1 and 1, a saddle at 0."""
    x, y = z.unbind(1)
    return torch.stack([x + step * (x - x**3), y - step * y], 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_wells_and_the_saddle_between_them(dtype):
    found = fixed_points(bistable, starts(dtype=dtype))
    assert found.points.dtype == dtype
    order = found.points[:, 0].argsort()
    expected = torch.tensor([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]], dtype=dtype)
    torch.testing.assert_close(found.points[order], expected, atol=1e-4, rtol=0)
    assert float(found.speeds.max()) < 1e-4
    slopes = found.jacobians[order].diagonal(dim1=1, dim2=2)
    by_hand = torch.tensor([[1 - 2 * 0.05, 0.95], [1.05, 0.95], [1 - 2 * 0.05, 0.95]], dtype=dtype)
    torch.testing.assert_close(slopes, by_hand, atol=1e-4, rtol=0)


def test_an_affine_map_has_the_point_that_linear_algebra_gives():
    matrix = 0.9 * torch.linalg.qr(starts(5, 5, seed=1))[0]
    offset = starts(1, 5, seed=2)[0]
    found = fixed_points(lambda z: z @ matrix.T + offset, 10 * starts(30, 5))
    exact = torch.linalg.solve(torch.eye(5, dtype=torch.float64) - matrix, offset)
    torch.testing.assert_close(found.points, exact[None], atol=1e-9, rtol=0)
    torch.testing.assert_close(found.jacobians[0], matrix)


def test_a_translation_has_none_and_a_slow_point_that_moves_is_none():
    assert len(fixed_points(lambda z: z + 0.1, starts()).points) == 0
    ghost = fixed_points(lambda z: z + 0.1 * (z**2 + 0.05), starts())  # just past a saddle-node
    assert len(ghost.points) == 0
    assert ghost.jacobians.shape == (0, 2, 2)


def test_what_is_far_from_every_start_is_left_out():
    def advance(z):
        return z + 0.1 * z * (z - 100) / 100

    found = fixed_points(advance, starts(60, 1))
    torch.testing.assert_close(found.points, torch.zeros(1, 1, dtype=torch.float64), atol=1e-8, rtol=0)


def test_a_line_of_fixed_points_gives_some_of_them():
    found = fixed_points(lambda z: torch.stack([z[:, 0], 0.5 * z[:, 1]], 1), starts(300))
    assert 2 < len(found.points) <= 64
    assert float(found.points[:, 1].abs().max()) < 1e-6


def test_the_point_of_most_starts_comes_first_and_useless_starts_do_no_harm():
    many = torch.cat([torch.full((9, 1), 0.9), torch.full((3, 1), -0.9)]).double()
    found = fixed_points(lambda z: z + 0.1 * (z - z**3), torch.cat([many, torch.full((1, 1), math.nan).double()]))
    torch.testing.assert_close(found.points[0], torch.ones(1, dtype=torch.float64), atol=1e-6, rtol=0)
    assert len(fixed_points(bistable, torch.full((2, 2), math.nan)).points) == 0
    assert len(fixed_points(bistable, torch.zeros(0, 2)).points) == 0


def test_jacobians_are_those_of_finite_differences():
    layer = torch.nn.GRUCell(3, 3).double()

    def advance(z):
        return layer(z, z)

    points = starts(4, 3)
    with torch.no_grad():  # the caller's mode does not matter
        found = jacobians(advance, points)
    step = 1e-6
    for column in range(3):
        shift = torch.zeros(3, dtype=torch.float64)
        shift[column] = step
        with torch.no_grad():
            difference = (advance(points + shift) - advance(points - shift)) / (2 * step)
        torch.testing.assert_close(found[:, :, column], difference, atol=1e-8, rtol=0)
    assert all(parameter.grad is None for parameter in layer.parameters())


def test_modes_give_back_the_times_that_a_matrix_was_made_of():
    timescale, frequency, width = 0.3, 2.0, 0.01
    angle, modulus = 2 * math.pi * frequency * width, math.exp(-width / timescale)
    turn = torch.tensor(
        [[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 0]], dtype=torch.float64
    )
    matrix = modulus * turn
    matrix[2, 2] = math.exp(-width / 0.05)
    change = starts(3, 3)
    found = modes(change @ matrix @ torch.linalg.inv(change), width)
    assert found.timescales_s.tolist() == pytest.approx([0.3, 0.3, 0.05])
    assert found.frequencies_hz.tolist() == pytest.approx([2.0, 2.0, 0.0])
    growing = modes(torch.diag(torch.tensor([1.0, 1.1])), 0.1)
    assert float(growing.timescales_s[0]) == pytest.approx(-0.1 / math.log(1.1), rel=1e-5)
    assert math.isinf(float(growing.timescales_s[1]))
