"""Linear dynamics around points that stand still, as eigenvalues, timescales and frequencies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from lvmzoo.inference.fixed_points import fixed_points, jacobians
from lvmzoo.report.style import CATEGORIES, HAIRLINE, INK, MUTED, PREDICTED, Table
from lvmzoo.report.text import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["MARKERS", "Linearization", "Place", "eigenvalue_plane", "linearize", "mode_table", "plane"]

MARKERS = {"stable": "o", "saddle": "X", "unstable": "D"}
_STARTS = 48  # visited states from which fixed points are sought
_MOST_PLACES, _MOST_MODES = 6, 16
_SERIES = np.outer(10.0 ** np.arange(-4, 5), [1, 2, 5]).ravel()  # round numbers


@dataclass(frozen=True)
class Place:
    """A state, and the eigenvalues of the map of one bin around it."""

    name: str  # "A", "B", ...; empty where there is one
    point: Float[np.ndarray, " latent"]
    eigenvalues: Complex[np.ndarray, " latent"]  # largest modulus first, of a pair the one above the real axis first
    fixed: bool = True  # False: the mean of the latents, for want of a fixed point

    @property
    def kind(self) -> str:
        """Whether states nearby come back ("stable"), leave ("unstable"), or some of either ("saddle")."""
        grows = np.abs(self.eigenvalues) > 1
        return "unstable" if grows.all() else "saddle" if grows.any() else "stable"


@dataclass(frozen=True)
class Linearization:
    """A law of motion near the states where it rests."""

    linear: bool  # the same eigenvalues everywhere
    places: list[Place]
    found: int  # fixed points in all; places are the first of them


def linearize(advance: Callable[[Tensor], Tensor], visited: Float[Tensor, "bin latent"]) -> Linearization:
    """Find the fixed points among visited states, and the eigenvalues there.

    Of a linear map there is one, and the eigenvalues are those of its matrix; of a nonlinear one without a fixed point
    they are taken at the mean of what was visited.
    """
    order = np.random.default_rng(0).permutation(len(visited))[:_STARTS]
    starts = visited[torch.from_numpy(order)]
    mean = visited.mean(0, keepdim=True)
    slopes = jacobians(advance, torch.cat([mean, starts[:8]]))
    precise = 1e-4 if slopes.dtype == torch.float32 else 1e-9
    if bool((slopes - slopes[0]).abs().max() <= precise * slopes.abs().max().clamp(min=1e-12)):
        identity = torch.eye(slopes.shape[1], dtype=slopes.dtype, device=slopes.device)
        with torch.no_grad():
            rest = mean + torch.linalg.lstsq(identity - slopes[0], (advance(mean) - mean).T).solution.T
        return Linearization(True, [_place("", rest[0], slopes[0])], 1)
    found = fixed_points(advance, starts)
    if not len(found.points):
        return Linearization(False, [_place("", mean[0], slopes[0], fixed=False)], 0)
    names = "ABCDEF" if len(found.points) > 1 else " "
    places = [
        _place(name.strip(), point, slope)
        for name, point, slope in zip(names, found.points, found.jacobians, strict=False)
    ]
    return Linearization(False, places[:_MOST_PLACES], len(found.points))


def _place(name: str, point: Tensor, slope: Tensor, fixed: bool = True) -> Place:
    values = np.linalg.eigvals(slope.double().cpu().numpy()).astype(np.complex128)
    order = np.lexsort((-values.imag, -np.round(np.abs(values), 12)))
    return Place(name, point.double().cpu().numpy(), values[order], fixed)


def timescale_s(eigenvalue: complex, bin_width_s: float) -> float:
    """Return the time to decay by e; negative: to grow by e; infinite: neither."""
    logarithm = np.log(np.abs(eigenvalue)) if eigenvalue else -np.inf
    return float(-bin_width_s / logarithm) if logarithm else np.inf


def frequency_hz(eigenvalue: complex, bin_width_s: float) -> float:
    """Return turns per second; a real negative eigenvalue turns half a circle a bin."""
    return float(np.abs(np.angle(eigenvalue)) / (2 * np.pi * bin_width_s))


def mode_table(found: Linearization, bin_width_s: float) -> Table:
    """Return the modes, slowest first; the two of a pair share a row."""
    several = len(found.places) > 1
    rows = []
    for place in found.places:
        upper = [value for value in place.eigenvalues if value.imag >= -1e-12]
        for value in upper[: 4 if several else _MOST_MODES]:
            timescale, frequency = timescale_s(value, bin_width_s), frequency_hz(value, bin_width_s)
            turns = "" if not frequency else "endless" if np.isinf(timescale) else number(abs(timescale) * frequency, 2)
            row = [_complex(value), _timescale(timescale), number(frequency) if frequency else "none", turns]
            rows.append([f"{place.name}, {place.kind}", *row] if several else row)
    header = ["Eigenvalue", "Timescale (ms)", "Frequency (Hz)", "Turns in that time"]
    more = " The slowest four of each fixed point." if several else ""
    return Table(
        caption="Modes of the dynamics",
        header=["Fixed point", *header] if several else header,
        rows=rows,
        note="A mode with eigenvalue λ fades by a factor e within its timescale, -bin / ln |λ|, and turns at its "
        f"frequency, angle of λ / (2π bin); the two of a pair share a row. Timescales below one bin "
        f"({1000 * bin_width_s:.4g} ms) are those of modes that do not last.{more}",
    )


def _complex(value: complex) -> str:
    sign = "\N{MINUS SIGN}" if value.real < 0 else ""
    real = f"{sign}{abs(value.real):.3f}"
    return real if abs(value.imag) < 1e-12 else f"{real} ± {abs(value.imag):.3f} i"


def _timescale(seconds: float) -> str:
    if np.isinf(seconds) or abs(seconds) > 1e5:
        return "endless"
    return number(1000 * seconds) if seconds >= 0 else f"grows, {number(-1000 * seconds)}"


def eigenvalue_plane(figure: Figure, found: Linearization, bin_width_s: float) -> None:
    """Draw eigenvalues in the complex plane, with lines of equal timescale and frequency."""
    axes = figure.subplots()
    plane(axes, np.concatenate([place.eigenvalues for place in found.places]), bin_width_s)
    colors = CATEGORIES if len(found.places) > 1 else (PREDICTED,)
    for order, place in enumerate(found.places):
        axes.scatter(
            place.eigenvalues.real, place.eigenvalues.imag, color=colors[order], edgecolor="white", linewidth=0.7,
            s=34 + 40 * (len(found.places) - 1 - order),  # of points that coincide all are seen
            marker=MARKERS[place.kind], zorder=4, label=f"{place.name} ({place.kind})",
        )  # fmt: skip
    if len(found.places) > 1:
        axes.legend(
            loc="upper right", title="fixed point", frameon=True, facecolor="white", edgecolor="none", framealpha=0.9
        )


def plane(axes: Axes, values: Complex[np.ndarray, " value"], bin_width_s: float) -> None:
    """Draw the unit circle and lines of equal timescale and frequency around some eigenvalues."""
    # Slow modes crowd around 1: the plane shows them, and the circle beside them, as large as they let it.
    left, right = min(float(values.real.min()), 0.97), max(float(values.real.max()), 1.0)
    size = 1.24 * max(right - left, 2 * float(np.abs(values.imag).max()))
    right += 0.12 * size
    box = (right - size, right, -size / 2, size / 2)
    circle = np.exp(1j * np.linspace(-np.pi, np.pi, 2001))
    axes.plot(circle.real, circle.imag, color=INK, linewidth=0.9)
    axes.fill(circle.real, circle.imag, color="#f5f7f9", zorder=0)
    _grid(axes, box, bin_width_s)
    axes.set(xlim=box[:2], ylim=box[2:], xlabel="real part", ylabel="imaginary part")
    axes.set_aspect("equal", adjustable="box", anchor="W")


def _grid(axes: Axes, box: tuple[float, float, float, float], bin_width_s: float) -> None:
    """Draw circles of equal timescale and rays of equal frequency, few enough to read, and name them."""
    left, right, low, high = box
    apart = 0.1 * (right - left)

    def inside(point: complex) -> bool:
        return bool(left < point.real < right and low < point.imag < high)

    last = 1.0
    for timescale in _SERIES[::-1]:
        radius = float(np.exp(-bin_width_s / timescale))
        if last - radius < apart or radius <= max(left, 0) or radius < apart / 2:
            continue
        last = radius
        circle = radius * np.exp(1j * np.linspace(-np.pi, np.pi, 721))
        axes.plot(circle.real, circle.imag, color=HAIRLINE, linewidth=0.7, zorder=1)
        seen = [point for point in circle if inside(point) and point.imag <= 0]
        at = min(seen, key=lambda point: point.imag, default=complex(left))
        if at.real > left + 0.5 * apart:
            _name(axes, at, f"{1000 * timescale:.4g} ms", below=True)
    last_angle = 0.0
    for frequency in _SERIES:
        angle = float(2 * np.pi * frequency * bin_width_s)
        ray = np.exp(1j * angle)
        if angle >= np.pi or np.sin(angle) - np.sin(last_angle) < apart or not inside(ray):
            continue
        last_angle = angle
        for end in (ray, ray.conjugate()):
            axes.plot([0, end.real], [0, end.imag], color=HAIRLINE, linewidth=0.7, zorder=1)
        _name(axes, complex(ray), f"{frequency:.4g} Hz", below=False)


def _name(axes: Axes, at: complex, text: str, *, below: bool) -> None:
    axes.annotate(
        text, (at.real, at.imag), xytext=(0, 3) if below else (4, 0), textcoords="offset points", fontsize=7,
        color=MUTED, ha="center" if below else "left", va="bottom" if below else "center",
        bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}, zorder=2,
    )  # fmt: skip
