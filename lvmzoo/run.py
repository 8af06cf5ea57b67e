"""A fitted model with everything that made it, and its folder on disk."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from safetensors.torch import save

from lvmzoo import registry
from lvmzoo.batch import Layout
from lvmzoo.checkpoint import write_bytes
from lvmzoo.config import DataConfig, Experiment, LoggerConfig, SplitConfig, TrainerConfig
from lvmzoo.config_files import check_file
from lvmzoo.data.trials import Session
from lvmzoo.errors import UserError
from lvmzoo.findings import Claim, Findings
from lvmzoo.given_config import built
from lvmzoo.metrics.base import Score
from lvmzoo.metrics.decode import Decoder, decoder_from_state
from lvmzoo.models.base import Model
from lvmzoo.run_files import read_json, read_tensors, rebuilding

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Run",
    "experiment_from_plain",
    "experiment_to_plain",
    "load_run",
    "make_folder",
    "new_folder",
    "read_experiment",
]

COLUMNS = {  # of claims.csv, for what of a claim is two numbers
    "interval": ("interval_low", "interval_high"),
    "null": ("null_median", "null_high"),
    "control_interval": ("control_low", "control_high"),
}
FORMAT = 1  # of run.json and model.safetensors; raise it when an older release could not read them


@dataclass
class Run:
    """What `train` returns: a fitted model, its scores and history, and how it came about."""

    model: Model
    entry: registry.Entry
    experiment: Experiment
    sessions: list[Session] | None  # None for a run that was loaded
    scores: list[Score]
    history: pd.DataFrame
    folder: Path | None
    facts: dict[str, Any] = field(default_factory=dict)  # versions, fingerprint, seconds, notes
    decoders: Mapping[tuple[str, str], Decoder] = field(default_factory=dict)  # (session, variable) -> readout
    findings: dict[str, Findings] = field(default_factory=dict)  # session -> what the model says about its regions

    def save(self, folder: str | Path) -> Path:
        """Write model, configuration, history and scores; nothing that runs code when it is read."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: value.detach().cpu().contiguous() for name, value in self.model.state_dict().items()}
        write_bytes(folder / "model.safetensors", save(state))
        readouts: dict[str, Any] = {}
        tensors = {}
        for number, ((session, variable), decoder) in enumerate(self.decoders.items()):
            plain, arrays = decoder.state()
            readouts[str(number)] = {"session": session, "name": variable, **plain}
            tensors.update({f"{number}/{name}": value.clone().contiguous() for name, value in arrays.items()})
        write_bytes(folder / "readouts.safetensors", save(tensors))
        description = {
            "format": FORMAT,
            "model": self.entry.name,
            "config": dataclasses.asdict(self.experiment.model),
            "layouts": [layout.to_json() for layout in self.model.layouts.values()],
            "readouts": readouts,
            "facts": self.facts,
        }
        write_text(folder / "run.json", json.dumps(description, indent=2))
        write_experiment(self.experiment, folder)
        write_text(folder / "history.csv", self.history.to_csv(index=False))
        rows = [dataclasses.asdict(score) for score in self.scores]
        write_text(folder / "metrics.json", json.dumps([_finite(row) for row in rows], indent=2))
        table = io.StringIO()
        writer = csv.DictWriter(table, [f.name for f in dataclasses.fields(Score)])
        writer.writeheader()
        writer.writerows(rows)
        write_text(folder / "metrics.csv", table.getvalue())
        if self.findings:
            write_findings(folder, self.findings)
        return folder


def load_run(folder: str | Path) -> Run:
    """Read a run folder; its sessions are not part of it.

    Raises
    ------
    UserError
        When the folder holds no run, or one that a later release wrote.
    """
    import pandas as pd

    folder = Path(folder)
    try:
        description = read_json(folder / "run.json")
        state = read_tensors(folder / "model.safetensors")
        tensors = read_tensors(folder / "readouts.safetensors")
        rows: list[dict[str, Any]] = read_json(folder / "metrics.json")
        history = pd.read_csv(folder / "history.csv")
    except FileNotFoundError as error:
        raise UserError(
            f"There is no finished run in {folder}.",
            "A run folder holds run.json, model.safetensors, readouts.safetensors, metrics.json and history.csv.",
            "Give the folder that `lvmzoo train` printed, or continue an interrupted run with resume=FOLDER.",
        ) from error
    except (ValueError, OSError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"The run in {folder} cannot be read: {error}.", "One of its files is damaged.", "Train it again."
        ) from error
    experiment, findings = read_experiment(folder), read_findings(folder)
    with rebuilding(folder):
        if description.get("format", 0) > FORMAT:
            raise UserError(
                f"The run in {folder} has format {description['format']}, written by lvmzoo "
                f"{description['facts'].get('versions', {}).get('lvmzoo', 'of a later release')}.",
                f"This release reads formats up to {FORMAT}.",
                "Update lvmzoo: pip install --upgrade lvmzoo.",
            )
        entry = registry.get(description["model"])
        layouts = [Layout.from_json(plain) for plain in description["layouts"]]
        model = entry.model(built(entry.config, "model", description["config"]), layouts)
        if experiment.trainer.precision == "64":
            model.double()
        model.load_state_dict(state)
        model.eval()
        decoders = {}
        for number, plain in description["readouts"].items():
            arrays = {name.split("/", 1)[1]: value for name, value in tensors.items() if name.split("/")[0] == number}
            decoders[plain["session"], plain["name"]] = decoder_from_state(plain, arrays)
        scores = [Score(**{**row, "value": math.nan if row["value"] is None else row["value"]}) for row in rows]
        facts = dict(description["facts"])
    return Run(model, entry, experiment, None, scores, history, folder, facts, decoders, findings)


def experiment_to_plain(experiment: Experiment) -> dict[str, Any]:
    """Return nested dicts and lists of plain values."""
    return json.loads(json.dumps(dataclasses.asdict(experiment)))


def experiment_from_plain(plain: Mapping[str, Any]) -> Experiment:
    """Build an experiment from what ``experiment_to_plain`` returned."""
    entry = registry.get(plain["model"]["name"])
    split = built(SplitConfig, "data.split", plain["data"]["split"])
    parts = {
        "model": built(entry.config, "model", plain["model"]),
        "data": built(DataConfig, "data", {**plain["data"], "split": split}),
        "trainer": built(TrainerConfig, "trainer", plain["trainer"]),
        "logger": built(LoggerConfig, "logger", plain["logger"]),
    }
    return Experiment(**{**plain, **parts})


def write_experiment(experiment: Experiment, folder: Path) -> None:
    """Write the resolved configuration of a run."""
    write_text(folder / "config.yaml", yaml.safe_dump(experiment_to_plain(experiment), sort_keys=False))


def read_experiment(folder: str | Path) -> Experiment:
    """Read the configuration of a run, finished or not; raises UserError where there is none."""
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        raise UserError(
            f"There is no run in {folder}.",
            "A run folder holds config.yaml.",
            "Give the folder that `lvmzoo train` printed; runs lie in runs/ unless output=… says otherwise.",
        )
    check_file(path)
    try:
        return experiment_from_plain(yaml.safe_load(path.read_text()))
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path} cannot be read: {reason}.",
            "It holds the settings of a run as this release of lvmzoo writes them.",
            "Undo changes to the file, or use the release that run.json names.",
        ) from error


def make_folder(experiment: Experiment, sessions: Sequence[str]) -> Path:
    """Make a new run folder; two runs started in the same second get two folders."""
    label = sessions[0] if len(sessions) == 1 else f"{len(sessions)}-sessions"
    name = experiment.name or f"{experiment.model.name}-{label}-{time.strftime('%Y%m%d-%H%M%S')}"
    return new_folder(Path(experiment.output), name)


def new_folder(parent: Path, name: str) -> Path:
    """Make a folder that was not there before, numbered where the name is taken; odd characters become dashes.

    Raises
    ------
    UserError
        When no folder can be made there.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:100] or "run"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, 10_000):
            with contextlib.suppress(FileExistsError):
                folder = parent / (name if attempt == 1 else f"{name}-{attempt}")
                folder.mkdir()
                return folder
    except OSError as error:
        raise UserError(
            f"No folder can be made in output={parent}: {error.strerror}.",
            "Runs are written there, each into a folder of its own.",
            "Choose another output=DIR, or make it writable.",
        ) from error
    raise UserError(f"{parent} holds too many folders named {name}.", "At most 9999.", "Choose another output=DIR.")


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one step."""
    write_bytes(path, text.encode())


def write_findings(folder: Path, findings: Mapping[str, Findings]) -> None:
    """Write claims as a table, a number a column, and everything as JSON that ``load_run`` reads."""
    plain = {session: found.to_json() for session, found in findings.items()}
    write_text(folder / "findings.json", json.dumps(plain))
    names = [column for f in dataclasses.fields(Claim) for column in COLUMNS.get(f.name, (f.name,))]
    table = io.StringIO()
    writer = csv.DictWriter(table, ["session", *names, "sentence"])
    writer.writeheader()
    for session, found in findings.items():
        for claim in found.claims:
            row: dict[str, Any] = {"session": session, "sentence": claim.sentence}
            for name, value in dataclasses.asdict(claim).items():
                columns = COLUMNS.get(name)
                row |= {name: value} if columns is None else zip(columns, value or (None, None), strict=True)
            writer.writerow(row)
    write_text(folder / "claims.csv", table.getvalue())


def read_findings(folder: Path) -> dict[str, Findings]:
    """Read what ``write_findings`` wrote; nothing where a run has no findings. Raises UserError if it is damaged."""
    path = folder / "findings.json"
    if not path.is_file():
        return {}
    try:
        return {session: Findings.from_json(plain) for session, plain in read_json(path).items()}
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} cannot be read: {error}.",
            "It is damaged, or a later release wrote it.",
            "Move it away to use the model without its findings, or train it again.",
        ) from error


def save_latents(path: Path, latents: Mapping[str, np.ndarray]) -> None:
    """Write the latents of all sessions and parts as one npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **dict[str, Any](latents))
    write_bytes(path, buffer.getvalue())


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no NaN."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
