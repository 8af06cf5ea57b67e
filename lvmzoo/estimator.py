"""The zoo for people who have arrays: scikit-learn's verbs, on the same path as the command line."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lvmzoo import registry
from lvmzoo.adapt import adaptation
from lvmzoo.batch import Batch
from lvmzoo.config import DataConfig, Experiment, LoggerConfig, SplitConfig, TrainerConfig
from lvmzoo.data.load import apply
from lvmzoo.data.recording import Recording
from lvmzoo.data.trials import Session, Trials
from lvmzoo.errors import UserError, unknown
from lvmzoo.findings import Findings
from lvmzoo.given import Activity, Behavior, check_units, each_trial, is_stored, like, one, read
from lvmzoo.given_config import built
from lvmzoo.inferred import Inferred, infer
from lvmzoo.metrics import METRICS
from lvmzoo.metrics.base import Evaluation
from lvmzoo.metrics.decode import Decoder
from lvmzoo.metrics.decoding import score_decoders
from lvmzoo.models.base import Communicates, Connects, Decodes, Scores
from lvmzoo.online import Online
from lvmzoo.run import Run, load_run
from lvmzoo.train import readouts, train

__all__ = ["Estimator", "load"]


class Estimator:
    """Any model of the zoo, fitted to arrays, lists of trials, recordings or files.

    Parameters
    ----------
    model : a name that `lvmzoo list` shows.
    seed : of every random draw.
    regions : the region of each unit, for models of several regions fitted to arrays.
    bin_width_s : of arrays, in seconds; files are binned with ``data={"bin_width_s": ...}``.
    trainer : fields of ``TrainerConfig``, such as ``{"max_epochs": 50}``.
    data : fields of ``DataConfig``. Unlike on the command line, all data are for training unless it has a ``split``.
    **config : fields of the model's configuration, such as ``latents=8`` (`lvmzoo show NAME` lists them).

    Attributes
    ----------
    run_ : the fitted run, after ``fit``.

    Examples
    --------
    >>> counts = np.random.default_rng(0).poisson(1.0, (20, 50, 12))  # trial, bin, unit
    >>> latents = Estimator("lds", latents=2).fit(counts).transform(counts)
    >>> latents.shape
    (20, 50, 2)
    """

    def __init__(
        self,
        model: str = "lds",
        *,
        seed: int = 0,
        regions: Sequence[str] | None = None,
        bin_width_s: float = 0.02,
        trainer: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
        **config: Any,
    ) -> None:
        self.model = model
        self.seed = seed
        self.regions = regions
        self.bin_width_s = bin_width_s
        self.trainer = trainer
        self.data = data
        self._config = config
        self._check(config)

    def __repr__(self) -> str:
        given = {name: value for name, value in self.get_params().items() if value is not None and name != "model"}
        return f"Estimator({self.model!r}{''.join(f', {name}={value!r}' for name, value in given.items())})"

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "run_")

    def __sklearn_tags__(self) -> Any:
        """Return what scikit-learn's model selection wants to know."""
        from sklearn.utils import InputTags, Tags, TargetTags

        return Tags(
            estimator_type=None,
            target_tags=TargetTags(required=False),
            input_tags=InputTags(three_d_array=True, allow_nan=True),
        )

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the arguments of the constructor, as scikit-learn's ``clone`` wants them."""
        own = ("model", "seed", "regions", "bin_width_s", "trainer", "data")
        return {**{name: getattr(self, name) for name in own}, **self._config}

    def set_params(self, **parameters: Any) -> Estimator:
        """Change arguments of the constructor."""
        own = {
            name: value for name, value in parameters.items() if name in self.get_params() and name not in self._config
        }
        config = {name: value for name, value in parameters.items() if name not in own}
        for name, value in own.items():
            setattr(self, name, value)
        self._check(config)
        self._config = {**self._config, **config}
        return self

    def fit(self, X: Activity, y: Behavior | None = None) -> Estimator:
        """Fit the model.

        Parameters
        ----------
        X : (bin, unit) or (trial, bin, unit) counts or continuous activity, a list of (bin, unit) trials of any
            length, a Recording, or the path of an NWB or npz file; for several sessions a list of either, or a glob.
        y : behavior of the same shape with channels in place of units, or a dict of such by name.
        """
        recordings = self._read(X, y)
        experiment = Experiment(
            model=built(registry.get(self.model).config, "model", self._config),
            data=self._data_config(),
            trainer=built(TrainerConfig, "trainer", self.trainer or {}),
            logger=LoggerConfig(),
            seed=self.seed,
        )
        self.run_ = train(experiment, recordings, write=False)
        self.n_features_in_ = next(iter(self.run_.model.layouts.values())).n_units
        return self

    def transform(self, X: Activity, y: Behavior | None = None) -> Any:
        """Return the latents: an array of the shape of ``X`` with latents in place of units, or a list of trials.

        ``y`` is looked at only for the known inputs of a model that was fitted with ``data={"inputs": [...]}``.
        """
        return like(X, self._trials(X, y), self._fitted().model.latents)

    def fit_transform(self, X: Activity, y: Behavior | None = None) -> Any:
        """Fit, and return the latents of the same data."""
        return self.fit(X, y).transform(X, y)

    def predict(self, X: Activity, y: Behavior | None = None) -> Any:
        """Return the target region of a model that communicates; else the behavior that it decodes.

        Behavior is decoded by the model itself where it can (as ``psid``), else by a readout of the latents, fitted
        beside it. Several target regions, and several variables, come as a dict by name, one as an array. ``y`` is
        looked at only for known inputs.
        """
        run = self._fitted()
        if isinstance(run.model, Communicates):
            [*targets] = run.model.routes
            trials = self._trials(X, y)
            predicted = {
                target: like(X, trials, partial(run.model.predict_target, target=target)) for target in targets
            }
            return predicted if len(targets) > 1 else predicted[targets[0]]
        if isinstance(run.model, Decodes):
            trials = self._trials(X, y)
            found = run.model.decode(trials.batch().without_behavior())
            decoded = {name: like(X, trials, _already(values)) for name, values in found.items()}
            if decoded:
                return next(iter(decoded.values())) if len(decoded) == 1 else decoded
        decoders = self._readouts()
        if not decoders:
            raise UserError(
                f"{self.model} has nothing to predict.",
                "It was fitted without behavior, and it predicts no region from another.",
                "Give behavior to fit: Estimator(...).fit(X, y).",
            )
        trials = self._trials(X, y)
        latents = like(X, trials, run.model.latents)
        decoded = {
            name: each_trial(latents, decoder.predict)
            for (of, name), decoder in decoders.items()
            if of == trials.layout.session
        }
        return next(iter(decoded.values())) if len(decoded) == 1 else decoded

    def infer(self, X: Activity, y: Behavior | None = None, *, session: str | None = None) -> Inferred:
        """Return latents, rates and decoded behavior with the time of each bin, for xarray, pynapple and NWB.

        ``model.infer("FILE.nwb").to_xarray()`` and ``.to_pynapple()`` are objects of those packages.

        Parameters
        ----------
        X, y : as for ``transform``.
        session : whose units these are; may be left out where the model was fitted to one session, or ``X`` has the
            name of one.

        Raises
        ------
        UserError
            If the session is not known or not clear, or the data do not fit it.
        """
        self._readouts()
        return infer(self._fitted(), self._one(X, y), session)

    def score(self, X: Activity, y: Behavior | None = None) -> float:
        """Return how well the model explains new data; higher is better.

        The log-likelihood per bin in nats where the model has one, 1 - NSE of the target region where it predicts
        one, else how well ``y`` is read out from the latents by the readout of the fit: R2 (of cosine and sine for
        angles), or the share of categories that are right.
        """
        run = self._fitted()
        [*behavior] = next(iter(run.model.layouts.values())).behavior
        if y is not None and not isinstance(y, Mapping) and len(behavior) == 1:
            y = {behavior[0]: y}  # the only variable of the fit, whatever it was called there
        trials = self._trials(X, y)
        if isinstance(run.model, Scores):
            with torch.no_grad():
                batch = trials.batch()
                return float(run.model.log_likelihood(batch).sum() / batch.valid.sum())
        train_part = run.sessions[0].train if run.sessions else trials
        evaluation = Evaluation(run.model, Session(train_part, trials.select([]), trials), self.seed)
        if isinstance(run.model, Communicates):
            scores = METRICS["variance_explained"](evaluation)
        else:
            decoders = {
                name: decoder for (of, name), decoder in self._readouts().items() if of == trials.layout.session
            }
            scores = score_decoders(evaluation, decoders)
        found = [score.value for score in scores if score.better == "higher"]
        if not found:
            raise UserError(
                f"{self.model} cannot be scored: there is no behavior that it was fitted with.",
                "It has no likelihood; it is judged by how well behavior is decoded from its latents.",
                f"Give score(X, y) a dict of {', '.join(behavior)}." if behavior else "Give behavior to fit and score.",
            )
        return float(np.mean(found))

    def findings(self) -> dict[str, Findings]:
        """Return what a model of several regions says about each session it was fitted to, with nulls and intervals.

        ``findings()["arrays"].claims`` has a sentence for each claim; this may take minutes.

        Raises
        ------
        UserError
            For a model of one region, or one that was loaded: its training data are not part of it.
        """
        run = self._fitted()
        if not isinstance(run.model, Connects):
            able = ", ".join(name for name, entry in registry.entries().items() if issubclass(entry.model, Connects))
            raise UserError(f"{self.model} says nothing about regions.", f"Models that do: {able}.", "Fit one of them.")
        if not run.findings:
            if run.sessions is None:
                raise UserError(
                    f"This {self.model} was loaded without its data, and no findings were saved with it.",
                    "Nulls and intervals are computed from the training data.",
                    "Fit it again, and call findings() before save().",
                )
            run.findings = {
                session.layout.session: Evaluation(run.model, session, self.seed).findings() for session in run.sessions
            }
        return dict(run.findings)

    def adapt(self, X: Activity, y: Behavior | None = None, *, everything: bool = False) -> Estimator:
        """Return an estimator for a new session: its own layers are fitted, for a tenth of the steps, all else is kept.

        Parameters
        ----------
        X, y : as for ``fit``; other units, the same behavior.
        everything : then fit all parameters, for as many steps as the first fit.

        Raises
        ------
        UserError
            For a model without layers of each session's own.
        """
        run = self._fitted()
        recordings = self._read(X, y)
        if not is_stored(X):  # arrays have no name by which one would know them again
            [recording] = recordings
            taken = run.model.layouts
            name = next(name for n in itertools.count(2) if (name := f"{recording.session}-{n}") not in taken)
            recordings = [dataclasses.replace(recording, session=name)]
        adapted = Estimator(**self.get_params())
        for every in (False, True)[: 1 + everything]:
            plan = adaptation(self.run_.experiment, None, every)
            run = train(plan, recordings, write=False, trained=run.model)
        adapted.run_ = run
        adapted.n_features_in_ = next(iter(run.model.layouts.values())).n_units
        return adapted

    def online(self, session: str | None = None) -> Online:
        """Return what takes one new bin at a time, for a closed loop: ``step(counts)`` gives latents and behavior.

        Parameters
        ----------
        session : whose units come in; may be left out where the model was fitted to one.

        Raises
        ------
        UserError
            For a model that looks at whole trials, or smoothing that looks ahead.
        """
        run = self._fitted()
        known = list(run.model.layouts)
        if session is None and len(known) > 1:
            raise UserError(
                f"This {self.model} knows {len(known)} sessions, each with its own units.",
                f"They are: {', '.join(known)}.",
                f'Say whose units come in: online(session="{known[0]}").',
            )
        session = known[0] if session is None else session
        decoders = {name: decoder for (of, name), decoder in self._readouts().items() if of == session}
        return Online(run.model, session, decoders, run.experiment.data)

    def save(self, folder: str | Path) -> Path:
        """Write the fitted model to a folder; ``lvmzoo.load`` reads it again."""
        self._readouts()
        return self.run_.save(folder)

    def _readouts(self) -> Mapping[tuple[str, str], Decoder]:
        """Return the readouts of behavior, fitted when they are first asked for."""
        run = self._fitted()
        if not run.decoders and run.sessions is not None:
            run.decoders = readouts([Evaluation(run.model, session, self.seed) for session in run.sessions])
        return run.decoders

    def _fitted(self) -> Run:
        if not hasattr(self, "run_"):
            raise UserError(f"This {self.model} is not fitted.", "It has no parameters yet.", "Call fit(X) first.")
        return self.run_

    def _check(self, config: Mapping[str, Any]) -> None:
        fields = {f.name for f in dataclasses.fields(registry.get(self.model).config)} - {"name"}
        for name in config:
            if name not in fields:
                raise unknown(f"field of the model {self.model}", name, fields)

    def _data_config(self) -> DataConfig:
        given = dict(self.data or {})
        split = built(SplitConfig, "data.split", given.pop("split", {"validation": 0.0, "test": 0.0}))
        return built(DataConfig, "data", {"bin_width_s": self.bin_width_s, **given, "split": split})

    def _trials(self, X: Activity, y: Behavior | None = None) -> Trials:
        """Return new data as the fitted model expects them: in the layout of their session, else of the first."""
        layouts = self._fitted().model.layouts
        check_units(X, self.regions)
        recording = self._one(X, y)
        return apply(recording, self._data_config(), layouts.get(recording.session, next(iter(layouts.values()))))

    def _one(self, X: Activity, y: Behavior | None) -> Recording:
        return one(self._read(X, y))

    def _read(self, X: Activity, y: Behavior | None) -> list[Recording]:
        return read(X, y, self._data_config(), self.bin_width_s, self.regions)


def load(folder: str | Path) -> Estimator:
    """Return the fitted model of a run folder, or of a folder that ``Estimator.save`` wrote.

    Raises
    ------
    UserError
        When the folder holds no run, or one that a later release wrote.
    """
    run = load_run(folder)
    config = dataclasses.asdict(run.experiment.model)
    data = dataclasses.asdict(run.experiment.data)
    estimator = Estimator(
        config.pop("name"),
        seed=run.experiment.seed,
        bin_width_s=data["bin_width_s"],
        trainer=dataclasses.asdict(run.experiment.trainer),
        data=data,
        **config,
    )
    estimator.run_ = run
    estimator.n_features_in_ = next(iter(run.model.layouts.values())).n_units
    return estimator


def _already(values: Tensor) -> Callable[[Batch], Tensor]:
    """Return a function that says of the trials what is known already."""
    return lambda _: values
