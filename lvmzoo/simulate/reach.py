"""A delayed reach task: two motor regions, eight targets, smooth latents, spike times and hand movement.

Six latents drive both regions. Two prepare (they hold the direction from target onset to movement, as in Churchland et
al. 2006, doi:10.1523/JNEUROSCI.3762-06.2006), two rotate during movement from a phase that the direction sets
(Churchland et al. 2012, doi:10.1038/nature11129), and two command the hand's velocity, which follows after a motor
delay. Each trial has its own amplitude, phase and timing, and smooth noise that no condition average shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from lvmzoo.data.recording import Recording, Signal
from lvmzoo.simulate.spikes import poisson_spikes, smooth_noise

__all__ = ["LATENTS", "reach"]

LATENTS = ("preparation_x", "preparation_y", "rotation_1", "rotation_2", "command_x", "command_y")
STEP_S = 0.01  # of the latents and rates
HAND_HZ = 200.0
TARGETS = 8
DISTANCE_M = 0.08
MOTOR_DELAY_S = 0.05  # from the command to the hand
BELL_S = 0.09  # standard deviation of the hand's speed over time
ROTATION_HZ = 1.8
BETWEEN_TRIALS_S = 0.7  # the hand goes back
# How strongly each pair of latents (preparation, rotation, command) drives a unit, by region.
LOADINGS = {"PMd": (1.2, 1.1, 0.95), "M1": (0.9, 1.15, 1.25)}


def reach(seed: int = 0, trials: int = 200, pmd_units: int = 60, m1_units: int = 40) -> Recording:
    """Simulate a session of center-out reaches after a delay.

    Truth: ``latents`` (named in their description) and ``rates`` in Hz, every 10 ms. Behavior: ``hand_position`` in
    meters and ``hand_velocity`` in meters per second at 200 Hz. Trial columns: target, target_angle (radians), and the
    times target_on_s, go_cue_s and movement_on_s.

    Parameters
    ----------
    seed : of every draw.
    trials : reaches, about 1.1 s each and 0.7 s apart.
    pmd_units, m1_units : units with mean rates between 5 and 15 Hz, in PMd and M1.
    """
    random = np.random.default_rng(seed)
    plan = _plan(trials, random)
    duration_s = float(plan.stop[-1] + BETWEEN_TRIALS_S)
    steps = int(np.ceil(duration_s / STEP_S))
    duration_s = steps * STEP_S
    latents = _latents(plan, (np.arange(steps) + 0.5) * STEP_S, random)
    regions = ["PMd"] * pmd_units + ["M1"] * m1_units
    rates_hz = _rates_hz(latents, regions, random)
    return Recording.from_spike_times(
        "reach",
        poisson_spikes(rates_hz, STEP_S, random),
        regions=regions,
        stop_s=duration_s,
        trials=plan.table(),
        behavior=_hand(plan, duration_s, random),
        truth={
            "latents": Signal(
                latents.astype(np.float32),
                start_s=STEP_S / 2,
                rate_hz=1 / STEP_S,
                unit="a.u.",
                description=", ".join(LATENTS),
            ),
            "rates": Signal(
                rates_hz.astype(np.float32),
                start_s=STEP_S / 2,
                rate_hz=1 / STEP_S,
                unit="Hz",
                description="Rate of the Poisson process of each unit, in the order of the units.",
            ),
        },
        observed=np.array([[0.0, duration_s]]),
    )


@dataclass(frozen=True)
class _Plan:
    """When what happens in each trial, in seconds, and how it differs from the others of its target."""

    start: Float[np.ndarray, " trial"]
    stop: Float[np.ndarray, " trial"]
    target_on: Float[np.ndarray, " trial"]
    go_cue: Float[np.ndarray, " trial"]
    movement_on: Float[np.ndarray, " trial"]
    target: np.ndarray
    angle: Float[np.ndarray, " trial"]  # of the movement: the target's and an error
    amplitude: Float[np.ndarray, "trial pair"]
    phase: Float[np.ndarray, " trial"]

    def table(self) -> pd.DataFrame:
        """Return the trial table."""
        return pd.DataFrame(
            {
                "start_s": self.start,
                "stop_s": self.stop,
                "target": self.target,
                "target_angle": 2 * np.pi * self.target / TARGETS,
                "target_on_s": self.target_on,
                "go_cue_s": self.go_cue,
                "movement_on_s": self.movement_on,
            }
        )


def _plan(trials: int, random: np.random.Generator) -> _Plan:
    target_on = np.full(trials, 0.1)
    go_cue = target_on + random.uniform(0.3, 0.45, trials)
    movement_on = go_cue + MOTOR_DELAY_S + random.gamma(9.0, 0.012, trials)
    length = movement_on + 0.45
    start = 0.3 + np.concatenate([[0.0], np.cumsum(length[:-1] + BETWEEN_TRIALS_S)])
    # Each block of eight holds each target once.
    blocks = [random.permutation(TARGETS) for _ in range(-(-trials // TARGETS))]
    target = np.concatenate(blocks)[:trials]

    def at(event: np.ndarray | float) -> np.ndarray:
        return np.asarray(np.round(start + event, 3))

    return _Plan(
        start=at(0.0),
        stop=at(length),
        target_on=at(target_on),
        go_cue=at(go_cue),
        movement_on=at(movement_on),
        target=target,
        angle=2 * np.pi * target / TARGETS + random.normal(0.0, 0.08, trials),
        amplitude=random.normal(1.0, 0.15, (trials, 3)),
        phase=random.normal(0.0, 0.25, trials),
    )


def _latents(plan: _Plan, times: np.ndarray, random: np.random.Generator) -> Float[np.ndarray, "step latent"]:
    latents = 0.25 * smooth_noise(len(times), len(LATENTS), 0.2 / STEP_S, random)
    for i in range(len(plan.start)):
        here = slice(*np.searchsorted(times, [plan.start[i], plan.stop[i] + BETWEEN_TRIALS_S]))
        t = times[here]
        moving = t - (plan.movement_on[i] - MOTOR_DELAY_S)  # time from the command's beginning
        direction = np.array([np.cos(plan.angle[i]), np.sin(plan.angle[i])])
        preparing = _step(t - plan.target_on[i] - 0.08, 0.03) * (1 - _step(moving - 0.02, 0.03))
        turning = 2 * np.pi * ROTATION_HZ * moving + plan.angle[i] + plan.phase[i]
        envelope = 2.2 * _step(moving, 0.03) * np.exp(-np.maximum(moving, 0.0) / 0.25)
        out = 2.2 * _bell(moving - 2 * BELL_S) - 2.2 * _bell(t - plan.stop[i] - 0.35 + MOTOR_DELAY_S)
        pairs = (
            1.6 * np.outer(preparing, direction),
            np.stack([envelope * np.cos(turning), envelope * np.sin(turning)], axis=1),
            np.outer(out, direction),
        )
        latents[here] += np.concatenate(
            [scale * pair for scale, pair in zip(plan.amplitude[i], pairs, strict=True)], axis=1
        )
    return latents


def _rates_hz(
    latents: Float[np.ndarray, "step latent"], regions: list[str], random: np.random.Generator
) -> Float[np.ndarray, "step unit"]:
    scale = np.repeat(np.array([LOADINGS[region] for region in regions]), 2, axis=1)
    # Units prefer a direction within each pair, all alike in strength, and differ in how far.
    preferred = random.uniform(0, 2 * np.pi, (len(regions), 3))
    strength = random.uniform(0.7, 1.3, (len(regions), 3))
    circle = np.stack([np.cos(preferred) * strength, np.sin(preferred) * strength], axis=2).reshape(len(regions), -1)
    drive = latents @ (np.sqrt(2) * circle * scale).T
    mean_hz = random.uniform(7.0, 14.5, len(regions))
    gain = np.logaddexp(0.0, 2.0 * (1.5 + drive))  # nearly linear, as cosine tuning is, and never below zero
    return mean_hz * gain / gain.mean(axis=0)


def _hand(plan: _Plan, duration_s: float, random: np.random.Generator) -> dict[str, Signal]:
    """Return the hand's position and velocity: out to the target in each trial, and back between trials."""
    times = np.arange(int(duration_s * HAND_HZ)) / HAND_HZ
    velocity = np.zeros((len(times), 2))
    for i in range(len(plan.start)):
        here = slice(*np.searchsorted(times, [plan.start[i], plan.stop[i] + BETWEEN_TRIALS_S]))
        t = times[here]
        out = _bell(t - plan.movement_on[i] - 2 * BELL_S) - _bell(t - plan.stop[i] - 0.35)
        speed = DISTANCE_M * plan.amplitude[i, 2] / (BELL_S * np.sqrt(2 * np.pi)) * out
        velocity[here] += np.outer(speed, [np.cos(plan.angle[i]), np.sin(plan.angle[i])])
    tremor = 0.004 * smooth_noise(len(times), 2, 0.04 * HAND_HZ, random)
    velocity += tremor
    position = np.cumsum(velocity - tremor, axis=0) / HAND_HZ + 0.0005 * smooth_noise(len(times), 2, 20.0, random)
    return {
        "hand_position": Signal(position, rate_hz=HAND_HZ, unit="meters", description="x and y of the hand"),
        "hand_velocity": Signal(velocity, rate_hz=HAND_HZ, unit="m/s", description="velocity of the hand in x and y"),
    }


def _step(t: np.ndarray, width_s: float) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(t / width_s, -50, 50)))


def _bell(t: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * (t / BELL_S) ** 2)
