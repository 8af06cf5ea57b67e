"""The experiment: everything that decides a run, as typed dataclasses.

These dataclasses are the only home of defaults. Hydra's store is filled from them, the Python interface builds them
directly, and a run writes them to its folder.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lvmzoo.errors import UserError, unknown

__all__ = ["DataConfig", "Experiment", "LoggerConfig", "SplitConfig", "TrainerConfig"]


FOLDS = 5


@dataclass(frozen=True)
class SplitConfig:
    """How trials, or stretches of a continuous recording, become training, validation and test data."""

    by: str = (
        "blocks"  # blocks: contiguous, with a gap; every: each n-th trial; list: named trials; folds: k contiguous
    )
    validation: float = 0.15  # fraction of the recording, after the training block
    test: float = 0.2  # fraction of the recording, at its end
    gap_s: float | None = None  # left out between blocks; null: window + smoothing + autocorrelation time
    every: int = 5  # by=every: the trials with index % every == offset are tested
    offset: int = 0  # by=every: the first tested trial
    train_trials: list[int] | None = None  # by=list: indices; null: all trials that the next two do not name
    validation_trials: list[int] | None = None  # by=list: indices
    test_trials: list[int] | None = None  # by=list: indices
    folds: int | None = None  # number of contiguous folds, 5 for by=folds; a number here means by=folds
    fold: int | None = None  # by=folds: which fold is tested; null: each of them, in a sweep
    untouched: float = 0.0  # by=folds: fraction at the end of the recording that no fold sees
    held_out_units: Any = 0.0  # for co-smoothing: a fraction drawn from the seed, or a list of unit indices
    seed: int = 0  # of the draw of held-out units

    def __post_init__(self) -> None:
        """Raise UserError for a seed that no generator takes, or folds beside another way to split."""
        _at_least("data.split.seed", self.seed, 0)
        _at_least("data.split.folds", self.folds, 2)
        if self.folds is None:
            object.__setattr__(self, "folds", FOLDS if self.by == "folds" else None)
        elif self.by == "blocks":
            object.__setattr__(self, "by", "folds")
        elif self.by != "folds":
            raise UserError(
                f"data.split.folds={self.folds} was given together with data.split.by={self.by}.",
                "Folds are contiguous in time; each of them is tested once.",
                "Leave one of the two out.",
            )


@dataclass(frozen=True)
class DataConfig:
    """Which recordings, and how they become binned trials."""

    path: Any = None  # an NWB or npz file, a glob, or a list of them (several sessions)
    simulator: str | None = None  # used when there is no path: the name of a simulated recording
    simulator_options: dict[str, Any] = field(default_factory=dict)  # its arguments, such as {seed: 1, trials: 20}
    signal: str | None = None  # null: spikes where there are any, else the fluorescence; or the name of a series
    trials: str = "auto"  # auto, trials, epochs or session
    tags: list[str] | None = None  # only epochs (or trials) with one of these tags
    align: str | None = None  # trial column that the window is around; null: from start to stop
    window_s: list[float] | None = None  # [before, after] the align column, such as [-0.2, 0.8]
    segment_s: float | None = None  # cut longer stretches into segments of this length; null: keep them whole
    bin_width_s: float = 0.02  # width of a time bin
    smoothing_s: float = 0.0  # standard deviation of a Gaussian on the activity within trials; 0: none
    causal_smoothing: bool = False  # use past bins only
    regions: list[str] | None = None  # null: all
    unit_ids: list[str] | None = None  # null: all
    unit_columns: dict[str, Any] = field(default_factory=dict)  # keep units with this value, or one of a list
    minimum_rate_hz: float = 0.0  # units below it in the training data are dropped; silent ones always are
    behavior: list[str] | None = None  # variables to use; null: all
    behavior_kinds: dict[str, str] = field(default_factory=dict)  # name -> continuous, circular or categorical
    shift_behavior: int | None = None  # control: labels are shifted against the activity, by shares from this seed
    condition: str | None = None  # trial column that sorts trials into conditions; null: the one that reads like it
    inputs: list[str] | None = None  # variables that drive the model, such as a stimulus, instead of being read out
    split: SplitConfig = field(default_factory=SplitConfig)  # into training, validation and test data

    def __post_init__(self) -> None:
        """Refuse lengths and rates that no recording can be cut by; raises UserError."""
        _at_least("data.smoothing_s", self.smoothing_s, 0)
        _at_least("data.minimum_rate_hz", self.minimum_rate_hz, 0)
        _at_least("data.shift_behavior", self.shift_behavior, 0)
        if self.segment_s is not None and not self.segment_s > 0:
            raise UserError(
                f"data.segment_s={self.segment_s:g} is not possible.",
                "A segment has a positive length in seconds.",
                "Write data.segment_s=5, or null to keep stretches whole.",
            )


@dataclass(frozen=True)
class TrainerConfig:
    """How a model is fitted. null means what the model recommends (`lvmzoo show NAME`)."""

    max_epochs: int | None = None  # passes over the training data at most
    max_steps: int | None = None  # gradient models: optimizer steps at most
    batch_size: int | None = None  # trials a step, or references a step for contrastive models
    learning_rate: float | None = None  # gradient models: of the optimizer
    weight_decay: float = 0.0  # gradient models: of the optimizer
    gradient_clip: float | None = None  # gradient models: largest norm of the gradient
    decay: float | None = None  # gradient models: factor on the learning rate where validation stops improving
    decay_patience: int | None = None  # validations without improvement before each decay
    tolerance: float = 1e-6  # EM stops when the log-likelihood per bin gains less than this fraction
    patience: int | None = None  # validations without improvement before training stops; 0: never stop early
    validate_every_steps: int | None = None  # gradient models: steps between validations
    accelerator: str = "auto"  # auto, cpu, gpu, mps
    devices: int = 1  # processes or devices; more than one trains with DDP
    precision: str = "32"  # 32, 64, or bf16 for gradient models; statistics models always sum and solve in float64
    threads: int | None = None  # CPU threads; null: one for statistics models, else torch's default
    checkpoint_every_s: float = 30.0  # time between the checkpoints that resume=RUN_FOLDER continues from
    progress: bool = True  # show a progress bar
    deterministic: bool = True  # refuse operations whose result varies from run to run

    def __post_init__(self) -> None:
        """Refuse what no model can be trained with; raises UserError."""
        _one_of("trainer.accelerator", self.accelerator, ("auto", "cpu", "gpu", "cuda", "mps"))
        _one_of("trainer.precision", self.precision, ("32", "64", "bf16"))
        for name in ("max_epochs", "max_steps", "batch_size", "validate_every_steps", "devices", "threads"):
            _at_least(f"trainer.{name}", getattr(self, name), 1)
        _at_least("trainer.decay_patience", self.decay_patience, 1)
        if self.decay is not None and not 0 < self.decay <= 1:
            raise UserError(
                f"trainer.decay={self.decay:g} is not possible.",
                "It is a factor on the learning rate: more than 0, and 1 for no decay.",
                "Write trainer.decay=0.5, or leave it at its default.",
            )
        for name in ("learning_rate", "weight_decay", "gradient_clip", "tolerance", "patience", "checkpoint_every_s"):
            _at_least(f"trainer.{name}", getattr(self, name), 0)


@dataclass(frozen=True)
class LoggerConfig:
    """Where the history goes besides the run folder."""

    name: str = "csv"  # csv, wandb or tensorboard
    project: str = "lvmzoo"  # wandb: of the run
    group: str | None = None  # wandb: of the run, such as the name of a sweep
    offline: bool = False  # wandb: never use the network

    def __post_init__(self) -> None:
        """Refuse a logger that does not exist; raises UserError."""
        _one_of("logger", self.name, ("csv", "wandb", "tensorboard"))


@dataclass(frozen=True)
class Experiment:
    """One run: a model, data, and how to fit it."""

    model: Any  # the config dataclass of a registry entry; its ``name`` says which
    data: DataConfig = field(default_factory=DataConfig)  # which recordings, and how they are binned and split
    trainer: TrainerConfig = field(default_factory=TrainerConfig)  # how the model is fitted
    logger: LoggerConfig = field(default_factory=LoggerConfig)  # where the history goes besides the run folder
    seed: int = 0  # of every random draw
    output: str = "runs"  # the run folder is made in here
    name: str | None = None  # of the run folder; null: model, session and time
    resume: str | None = None  # a run folder to continue
    adapt: str | None = None  # a run folder whose model learns new sessions; `lvmzoo adapt` sets it
    adapt_everything: bool = False  # with adapt: fit all parameters, not the layers of new sessions alone
    adapt_steps: int | None = None  # with adapt: trainer.max_steps of the first fit; `lvmzoo adapt` sets it
    report: bool = True  # write report.html
    time_limit_s: float | None = None  # in a sweep: a run that takes longer is stopped, and counts as failed
    prune: str | None = None  # in a sweep: median or halving ends runs that fall behind the others; null: none

    def __post_init__(self) -> None:
        """Refuse a seed that no generator takes, and other impossible values; raises UserError."""
        _at_least("seed", self.seed, 0)
        if self.time_limit_s is not None and not self.time_limit_s > 0:
            raise UserError(
                f"time_limit_s={self.time_limit_s:g} is not possible.",
                "It is a time in seconds, in which a run can begin.",
                "Write time_limit_s=3600, or null for no limit.",
            )
        if self.prune is not None:
            _one_of("prune", self.prune, ("median", "halving"))


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise unknown(f"choice of {name}", value, allowed)


def _at_least(name: str, value: int | float | None, least: int) -> None:
    if value is not None and not value >= least:
        raise UserError(
            f"{name}={value} is not possible.",
            f"It has to be at least {least}.",
            f"Write {name}=VALUE with a value from {least} upwards, or leave it at its default.",
        )
