"""``lvmzoo adapt``: a trained model learns a new session; a run folder and a short table out."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml

from lvmzoo.adapt import adaptation
from lvmzoo.commands import console_of_width
from lvmzoo.config import Experiment
from lvmzoo.errors import UserError
from lvmzoo.run import experiment_to_plain, read_experiment
from lvmzoo.store import compose
from lvmzoo.train_command import train_and_print

__all__ = ["run"]

EVERYTHING = "--everything"
_CHOICES = {"data": "nwb", "trainer": "default", "logger": "csv"}  # whose values are all overwritten by the run's
HELP = """\
[bold]lvmzoo adapt[/bold] RUN_FOLDER [OVERRIDES] [--everything]

Adds a new session to a trained model: its own layers are fitted, for a tenth of the steps, and what sessions share
stays as it is. Writes a run folder with report.html, as `lvmzoo train` does, with the settings of RUN_FOLDER but for
the overrides.

[bold]Examples[/bold]
  lvmzoo adapt RUN_FOLDER data.path=NEW.nwb
  lvmzoo adapt RUN_FOLDER "data.path=[OLD.nwb,NEW.nwb]"   labels of the new session are matched to those of the old
  lvmzoo adapt ADAPTED_RUN --everything                   then fit all parameters, for as many steps as at first
"""


def run(arguments: Sequence[str]) -> int:
    """Run ``lvmzoo adapt`` with these arguments and return the exit code."""
    if not arguments or {"-h", "--help"} & {*arguments}:
        console_of_width().print(HELP, soft_wrap=True)
        return 0
    words = [word for word in arguments if word != EVERYTHING]
    overrides = [word for word in words if "=" in word]
    folders = [word for word in words if "=" not in word]
    if len(folders) != 1 or folders[0].startswith("-"):
        raise UserError(
            f"lvmzoo adapt was given {' '.join(arguments)}.",
            "It takes one run folder, settings written name=value, and --everything.",
            "`lvmzoo adapt --help` shows examples.",
        )
    train_and_print(_experiment(folders[0], overrides, EVERYTHING in arguments))
    return 0


def _experiment(folder: str, overrides: Sequence[str], everything: bool) -> Experiment:
    """Return the settings of the trained run, with overrides checked and explained as those of ``lvmzoo train``."""
    plain = experiment_to_plain(adaptation(read_experiment(folder), str(Path(folder)), everything))
    plain["output"] = str(Path(folder).parent)  # not where somebody else's run says
    choices = [{f"override /{group}": name} for group, name in _CHOICES.items()]
    content = {"defaults": [{"override /model": plain["model"]["name"]}, *choices], **plain}
    with tempfile.TemporaryDirectory() as configs:
        path = Path(configs) / "experiment" / "adapted.yaml"
        path.parent.mkdir()
        path.write_text(f"# @package _global_\n{yaml.safe_dump(content, sort_keys=False)}")
        return compose(["experiment=adapted", *overrides], configs)
