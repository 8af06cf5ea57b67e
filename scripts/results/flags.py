"""How often the flags of a comparison rise on planted cases, and how often on sound ones."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from _family import row

from lvmzoo.flags import flags
from lvmzoo.metrics import METRICS
from lvmzoo.metrics.base import Evaluation
from lvmzoo.store import compose
from lvmzoo.train import train

HITS, FALSE_ALARMS = 0.9, 0.05  # at least, at most
FAMILIES = ("pca", "gpfa", "lds")


@dataclass(frozen=True)
class World:
    """A simulation, how many latents it has, and how many are far too many."""

    data: str
    latents: int
    many: int


WORLDS = (
    World("lds latents=4 trials=150 bins=50 units=40", 4, 20),
    World("lds latents=6 trials=250 bins=30 units=50", 6, 30),
    World("lorenz trials=3 bins=60 bin_width_s=0.01", 3, 18),
    World("reach trials=120 pmd_units=30 m1_units=20", 6, 24),
)
SPLITS = (
    ("by=blocks", "by=folds fold=0", "by=folds fold=2"),
    ("by=every every=5", "by=every every=2", "by=every every=10 offset=3"),
)
LFADS = (
    "lfads latents=3 generator=24 encoder=16 controller=16 initial_condition=8 inferred_inputs=1 ramp_steps=20 "
    "posterior_samples=2"
)
INPUT_STEPS = 250
LOW, NORMAL = 0.001, 1.0  # penalties of inferred inputs

Outcome = Mapping[str, Any]


def run() -> list[dict[str, Any]]:
    """Return hits and false alarms of each flag."""
    return [*comparisons(range(2)), *inputs(range(20)), *splits(range(2))]


def comparisons(seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Return what models of far too many latents, and models that fit badly, are told beside sound ones."""
    invented: tuple[list[bool], list[bool]] = ([], [])
    below: tuple[list[bool], list[bool]] = ([], [])
    for world, seed in itertools.product(WORLDS, seeds):
        data = f"{_data(world.data, seed)} data.split.held_out_units=0.25 data.split.seed={seed}"
        shots = ("co_bps", "few_shot_co_bps", "cycle_consistency")
        right, many, few = (
            {name: fit(f"{data} {_model(f'{name} latents={latents}')}", seed, shots) for name in FAMILIES}
            for latents in (world.latents, world.many, world.latents // 2)
        )
        for name in FAMILIES:
            invented[0].append(_kind([right["pca"], right[name], many[name]], "invents dynamics")[-1])
        # Beside smaller models, whose few latents are read out from few trials more easily.
        invented[1].extend(_kind([*right.values(), *few.values()], "invents dynamics")[: len(FAMILIES)])
        smoothing = fit(f"{data} model=smoothing", seed, ("co_bps",))
        poor = [
            fit(f"{data} {_model(words)} {trainer}", seed, ("co_bps",))
            for words, trainer in (
                ("lds latents=1", ""),
                ("gpfa latents=1", ""),
                (f"lfads latents={world.latents}", "trainer.max_steps=1"),
            )
        ]
        baselines = [smoothing, right["pca"]]
        below[0].extend(_kind([*baselines, *poor], "below baseline")[2:])
        good = [right["gpfa"], right["lds"], many["lds"]]
        below[1].extend(_kind([*baselines, *good], "below baseline")[2:])
    where = "simulated: two LDS, Lorenz and reaches, two seeds each; a quarter of the units held out"
    sizes = "18 to 30 latents for 3 to 6 that are there: pca, gpfa, lds"
    return [
        *_rows("invents dynamics", where, f"planted: {sizes}; sound: the right number, beside half of it", invented),
        *_rows("below baseline", where, "planted: one latent, or trained for one step; sound: gpfa, lds", below),
    ]


def inputs(seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Return what LFADS with a low and with the normal penalty of inputs is told about autonomous dynamics."""
    found: tuple[list[bool], list[bool]] = ([], [])
    for seed in seeds:
        for penalty, side in zip((LOW, NORMAL), found, strict=True):
            data = _data("van_der_pol trials=120 bins=30 units=30", seed)
            model = _model(f"{LFADS} kl_inputs={penalty}")
            words = f"{data} {model} trainer.max_steps={INPUT_STEPS} trainer.batch_size=40"
            side.extend(_kind([fit(words, seed, ("input_share",))], "inputs do the work"))
    where = f"simulated: van der Pol oscillators, {len(seeds)} seeds; lfads with one inferred input"
    return _rows("inputs do the work", where, f"planted: penalty {LOW:g}; sound: penalty {NORMAL:g}", found)


def splits(seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Return what interleaved and blocked splits are told."""
    found: tuple[list[bool], list[bool]] = ([], [])
    for world, seed in itertools.product(WORLDS, seeds):
        for side, some in zip(found[::-1], SPLITS, strict=True):
            for split in some:
                how = " ".join(f"data.split.{word}" for word in split.split())
                outcome = fit(f"{_data(world.data, seed)} {how} {_model('pca latents=2')}", seed, ("split_canary",))
                side.extend(_kind([outcome], "leaky split"))
    where = "simulated: two LDS, Lorenz and reaches, two seeds each; three splits each way"
    return _rows("leaky split", where, "planted: every second, fifth, tenth trial; sound: blocks and folds", found)


def fit(words: str, seed: int, metrics: Sequence[str]) -> Outcome:
    """Fit a model and score it by some metrics."""
    made = train(compose([*words.split(), f"seed={seed}", "trainer.progress=false", "trainer.threads=1"]), write=False)
    assert made.sessions is not None
    evaluation = Evaluation(made.model, made.sessions[0], seed)
    scores = [
        dataclasses.asdict(score)
        for metric in (METRICS[name] for name in metrics)
        if metric.needs is None or isinstance(made.model, metric.needs)
        for score in metric(evaluation)
    ]
    return {"model": made.entry.name, "scores": scores, "overrides": words.split()}


def _kind(outcomes: Sequence[Outcome], kind: str) -> list[bool]:
    return [any(flag.kind == kind for flag in of_run) for of_run in flags(outcomes)]


def _data(words: str, seed: int) -> str:
    name, *options = words.split()
    binned = ("bin_width_s",) if name == "lorenz" else ()
    keys = ("data." if option.split("=")[0] in binned else "data.simulator_options." for option in options)
    return " ".join([f"data={name} data.simulator_options.seed={seed}", *map("".join, zip(keys, options, strict=True))])


def _model(words: str) -> str:
    name, *options = words.split()
    return " ".join([f"model={name}", *(f"model.{option}" for option in options)])


def _rows(kind: str, where: str, cases: str, found: tuple[list[bool], list[bool]]) -> list[dict[str, Any]]:
    text, (planted, sound) = f"{where}; {cases}", found
    return [
        row(f"flag '{kind}' rises on planted cases", text, f">= {HITS:.0%}",
            f"{sum(planted)} of {len(planted)}", None, sum(planted) >= HITS * len(planted)),
        row(f"flag '{kind}' rises on sound cases", text, f"<= {FALSE_ALARMS:.0%}",
            f"{sum(sound)} of {len(sound)}", None, sum(sound) <= FALSE_ALARMS * len(sound)),
    ]  # fmt: skip
