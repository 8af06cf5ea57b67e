"""The command line: what each command prints, its exit code, sweeps, and tab completion."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lvmzoo import registry, sweep_job
from lvmzoo.cli import main
from lvmzoo.completion import complete
from lvmzoo.config import Experiment
from lvmzoo.context import log_file
from lvmzoo.errors import DivergedError, Interrupted, UserError
from lvmzoo.metrics.base import Score
from lvmzoo.sweep_folder import Sweep, outcomes_in, write_outcome

ROOT = Path(__file__).resolve().parents[1]
Fitted = list[Experiment]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LVMZOO_DEBUG", raising=False)
    return tmp_path


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Experiment], None] | None], Fitted]:
    """Put a stand-in where the one function that fits is, and return what it was asked to fit."""

    def install(fails: Callable[[Experiment], None] | None = None) -> Fitted:
        asked: Fitted = []

        def stand_in(experiment: Experiment, **_: Any) -> Any:
            asked.append(experiment)
            if fails is not None:
                fails(experiment)
            folder = Path(experiment.output) / (experiment.name or "run")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "report.html").write_text("")
            score = Score("co_bps", 0.25, "monday", unit="bits/spike", better="higher", spread=0.02, n=100)
            history = {"validation/loss": np.array([2.0, 1.0])}
            return types.SimpleNamespace(scores=[score], folder=folder, history=history, findings={})

        module = types.ModuleType("lvmzoo.train")
        module.train = stand_in
        monkeypatch.setitem(sys.modules, "lvmzoo.train", module)

        # A stand-in does not reach other processes.
        def here(experiment: Experiment, folder: Path, outcome: dict[str, Any], _: Any) -> None:
            write_outcome(folder, sweep_job.attempt(experiment, folder, outcome))

        monkeypatch.setattr("lvmzoo.sweep_command.run_job", here)
        return asked

    return install


def test_light_commands_import_nothing_heavy() -> None:
    program = (
        "import sys; from lvmzoo.cli import main; main(['list']); main(['show', 'lds']); main(['cite', 'lds']);"
        "print('heavy:', [m for m in ('pytorch_lightning', 'hydra', 'pynwb', 'pandas', 'wandb') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("heavy: []"), done.stdout[-300:]


def test_help_imports_no_torch() -> None:
    program = (
        "import sys; from lvmzoo.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "simulate" in done.stdout
    assert done.stdout.strip().endswith("False")


def test_list_names_every_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    for name, entry in registry.entries().items():
        assert re.search(rf"^{name}\s+{entry.family}", printed, re.MULTILINE)


@pytest.mark.parametrize("name", registry.entries())
def test_show_explains_every_setting(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", name]) == 0
    printed = capsys.readouterr().out
    assert registry.get(name).reference.doi in printed
    for field in dataclasses.fields(registry.get(name).config)[1:]:
        assert f"model.{field.name}" in printed


@pytest.mark.parametrize("name", registry.entries())
def test_cite_prints_bibtex(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cite", name]) == 0
    reference = registry.get(name).reference
    printed = capsys.readouterr().out.strip()
    assert printed.startswith(f"@misc{{{reference.key},\n")
    assert printed.count("{") == printed.count("}")
    assert f"doi = {{{reference.doi}}}" in printed


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        (["lst"], "Did you mean 'list'?"),
        (["show", "ldss"], "Did you mean 'lds'?"),
        (["simulate", "reach", "out.npz"], "Write out.nwb instead."),
        (["simulate", "reach", "nowhere/out.nwb"], "Create it: mkdir -p nowhere"),
        (["simulate", "reech", "out.nwb"], "Did you mean 'reach'?"),
    ],
)
def test_a_wrong_command_is_explained(arguments: list[str], fix: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 3
    assert lines[2].strip() == fix


def test_train_prints_scores_and_the_report(train: Any, capsys: pytest.CaptureFixture[str]) -> None:
    asked = train()
    assert main(["train", "model=lds", "model.latents=3", "seed=4", "name=mine"]) == 0
    assert [(e.model.latents, e.seed) for e in asked] == [(3, 4)]
    printed = capsys.readouterr().out
    assert re.search(r"co_bps\s+0\.25 ± 0\.02\s+bits/spike", printed)
    assert "Report: runs/mine/report.html" in printed


def test_the_script_is_the_same_entry(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = train()
    monkeypatch.setattr(sys, "argv", ["train.py", "model=lds", "seed=4"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / "scripts" / "train.py"), run_name="__main__")
    assert stopped.value.code == 0
    assert asked[0].seed == 4


def test_train_help_is_readable(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    printed = capsys.readouterr().out
    for name in registry.entries():
        assert name in printed
    assert "lvmzoo train -m model=lds,contrastive seed=0,1" in printed
    assert "trainer.accelerator" in printed


def test_the_composed_config_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--cfg", "job", "model=lds", "model.latents=3"]) == 0
    assert "latents: 3" in capsys.readouterr().out


def raising(error: BaseException) -> Callable[[Experiment], None]:
    def fail(_: Experiment) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (UserError("what", "why", "fix"), 2, "Error: what\n  why\n  fix"),
        (DivergedError("NaN after pass 3"), 3, "NaN after pass 3"),
        (Interrupted(15, "runs/a"), 143, "resume=runs/a"),
        (Interrupted(2, "runs/a"), 130, "resume=runs/a"),
        (KeyboardInterrupt(), 130, "Interrupted"),
        (RuntimeError("out of luck"), 1, "out of luck"),
    ],
)
def test_exit_codes(train: Any, error: BaseException, code: int, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    train(raising(error))
    assert main(["train"]) == code
    told = capsys.readouterr().err
    assert text in told
    assert "Traceback" not in told
    if code == 1:
        log = re.search(r"traceback in (\S+\.log)", told)
        assert log is not None
        assert "RuntimeError: out of luck" in Path(log[1]).read_text()
        Path(log[1]).unlink()


def test_what_goes_wrong_within_a_run_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    """The log of the run has it too, and the terminal has the three lines alone, after what was said before."""
    overrides = ["model=contrastive", "data=lds", "model.receptive_field_bins=400", "trainer.progress=false"]
    assert main(["train", *overrides]) == 2
    told = capsys.readouterr().err
    assert told.count("no window of 400 bins") == 1
    [log] = Path("runs").glob("*/log.txt")
    assert "no window of 400 bins" in log.read_text()


@pytest.mark.parametrize("flags", [[], ["-m"]])
def test_a_folder_that_cannot_be_made_is_explained(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("taken").write_text("")
    assert main(["train", *flags, "data=lds", "output=taken"]) == 2
    assert "No folder can be made in output=taken" in capsys.readouterr().err


def test_debug_shows_the_traceback(
    train: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LVMZOO_DEBUG", "1")
    train(raising(UserError("what", "why", "fix")))
    assert main(["train"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_sweep_runs_every_combination_in_one_folder(train: Any, capsys: pytest.CaptureFixture[str]) -> None:
    asked = train()
    assert main(["train", "-m", "model=lds,reduced_rank_regression", "seed=0,1", "output=all runs"]) == 0
    assert [(e.model.name, e.seed) for e in asked] == [
        ("lds", 0),
        ("lds", 1),
        ("reduced_rank_regression", 0),
        ("reduced_rank_regression", 1),
    ]
    (folder,) = Path("all runs").iterdir()
    outcomes = [json.loads((folder / f"job-{number}.json").read_text()) for number in range(4)]
    assert [outcome["code"] for outcome in outcomes] == [0] * 4
    assert outcomes[1]["scores"][0]["value"] == 0.25
    assert len({outcome["folder"] for outcome in outcomes}) == 4
    assert "4 of 4 runs done" in capsys.readouterr().out


def test_a_sweep_writes_its_page_and_says_where(train: Any, capsys: pytest.CaptureFixture[str]) -> None:
    train()
    assert main(["train", "-m", "model=lds"]) == 0
    (folder,) = Path("runs").iterdir()
    assert f"Leaderboard: {folder / 'leaderboard.html'}" in capsys.readouterr().out
    assert 'href="job-0-lds/report.html"' in (folder / "leaderboard.html").read_text()


@pytest.mark.parametrize("words", [["data.split.folds=3"], ["data.split.by=folds", "data.split.folds=3"]])
def test_a_sweep_of_folds_runs_them_all_and_pools_them(
    train: Any, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = train()
    assert main(["train", "-m", "model=lds,pca", *words]) == 0
    assert [(e.model.name, e.data.split.fold) for e in asked] == [(m, f) for m in ("lds", "pca") for f in (0, 1, 2)]
    printed = capsys.readouterr().out
    assert re.search(r"^lds .* 0,1,2", printed, re.MULTILINE)


def test_a_fold_that_is_chosen_is_run_alone(train: Any) -> None:
    asked = train()
    assert main(["train", "-m", "seed=0,1", "data.split.folds=3", "data.split.fold=2"]) == 0
    assert [(e.seed, e.data.split.fold) for e in asked] == [(0, 2), (1, 2)]
    assert main(["train", "-m", "data.split.folds=3", "data.split.fold=0,2"]) == 0
    assert [e.data.split.fold for e in asked[2:]] == [0, 2]


def test_a_search_does_not_choose_the_easiest_fold(train: Any, capsys: pytest.CaptureFixture[str]) -> None:
    asked = train()
    search = ["train", "-m", "sweep=lfads", "data=lds", "data.split.folds=3"]
    assert main(search) == 2
    assert not asked
    assert "Search with data.split.fold=0" in capsys.readouterr().err
    assert not list(Path().glob("runs/*"))


def test_scores_are_printed_beside_what_they_are_to_be_compared_with(
    train: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train()
    assert main(["train"]) == 0
    assert "beside it" not in capsys.readouterr().out
    scores = [
        Score("bits_per_spike", 0.25, "monday", seen=True, ceiling=0.4),
        Score("behavior_r2", 0.5, "monday", "hand", chance=0.02, p=0.048),
        Score("latent_r2", 0.5, "monday"),
        Score("split_canary", -0.02, "monday"),
    ]
    finished = types.SimpleNamespace(scores=scores, folder=None, findings={})
    monkeypatch.setattr(sys.modules["lvmzoo.train"], "train", lambda _: finished)
    assert main(["train"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4  # a split through which nothing leaks is not mentioned
    assert lines[0].split() == ["metric", "target", "value", "unit", "beside", "it"]
    assert lines[1].rstrip().endswith("of what the model saw; ceiling 0.400")
    assert "shuffled labels reach 0.020 (p = 0.048)" in lines[2]
    assert lines[3].split() == ["latent_r2", "0.5"]
    scores[-1] = Score("split_canary", 0.7, "monday")
    assert main(["train"]) == 0
    assert "split_canary" in capsys.readouterr().out


def test_the_same_sweep_again_runs_what_is_not_done(train: Any, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {1, 2}

    def odd(experiment: Experiment) -> None:
        if experiment.seed in wrong:
            raise RuntimeError("bug")

    asked = train(odd)
    again = ["train", "-m", "seed=0,1,2,3"]
    assert main(again) == 1
    assert "Run the rest: lvmzoo train -m seed=0,1,2,3" in capsys.readouterr().err
    wrong.clear()
    assert main(again) == 0
    assert [e.seed for e in asked] == [0, 1, 2, 3, 1, 2]
    assert main(again) == 0
    assert len(asked) == 6
    assert "4 of 4 runs done" in capsys.readouterr().out
    assert len(list(Path("runs").iterdir())) == 1
    assert main(["train", "-m", "seed=0,1,2"]) == 0  # other jobs are another sweep
    assert len(list(Path("runs").iterdir())) == 2


def test_a_changed_file_is_trained_on_again(train: Any, tmp_path: Path) -> None:
    asked, again = train(), ["train", "-m", "data=nwb", "data.path=a.nwb", "seed=0,1"]
    Path("a.nwb").write_text("one")
    for _ in range(2):
        assert main(again) == 0
    assert len(asked) == 2
    Path("a.nwb").write_text("another")
    assert main(again) == 0
    assert len(asked) == 4


def test_two_sweeps_at_once_have_two_folders(train: Any) -> None:
    asked, again = train(), ["train", "-m", "seed=0,1"]
    other = Sweep(Path("runs"), again[1:], [["seed=0"], ["seed=1"]])
    assert main(again) == 0
    assert len(asked) == 2
    assert len(list(Path("runs").iterdir())) == 2
    assert {outcome["status"] for outcome in outcomes_in(other.folder)} == {"queued"}
    other.close()
    assert len(list(Path("runs").iterdir())) == 1  # nothing was started there


def test_a_failing_job_is_named_and_the_others_run(train: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def odd(experiment: Experiment) -> None:
        if experiment.seed == 1:
            raise DivergedError("not finite")
        if experiment.seed == 2:
            raise RuntimeError("bug")

    asked = train(odd)
    assert main(["train", "-m", "seed=0,1,2,3"]) == 1
    assert len(asked) == 4
    captured = capsys.readouterr()
    assert re.search(r"^1 +diverged +seed=1 +Training diverged: not finite", captured.err, re.MULTILINE)
    assert re.search(r"^2 +failed +seed=2 +lvmzoo failed: RuntimeError: bug", captured.err, re.MULTILINE)
    assert "Job 3 done after" in captured.err
    assert "2 of 4 runs done, 1 diverged, 1 failed" in captured.out


def test_a_failing_job_does_not_end_a_search(train: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def odd(experiment: Experiment) -> None:
        if experiment.model.latents % 2:
            raise RuntimeError("bug")

    asked = train(odd)
    assert main(["train", "-m", "hydra/sweeper=search", "hydra.sweeper.n_trials=6", "model.latents=range(1,9)"]) == 1
    assert len(asked) == 6
    assert 1 <= len([experiment for experiment in asked if experiment.model.latents % 2]) < 6
    assert "Error" not in capsys.readouterr().err.replace("RuntimeError", "")


def test_a_search_without_anything_to_minimize_is_explained(train: Any, capsys: pytest.CaptureFixture[str]) -> None:
    train(raising(RuntimeError("bug")))
    search = ["train", "-m", "hydra/sweeper=search", "hydra.sweeper.n_trials=2", "model.latents=range(1,9)"]
    assert main(search) == 2
    assert "No run of the search has anything to minimize" in capsys.readouterr().err


def test_a_search_that_has_nothing_to_judge_by_is_refused(train: Any, capsys: pytest.CaptureFixture[str]) -> None:
    asked = train()
    search = [
        "train",
        "-m",
        "hydra/sweeper=search",
        "hydra.sweeper.n_trials=2",
        "model=pca",
        "model.latents=range(1,9)",
    ]
    assert main(search) == 2
    assert "nothing to judge pca by" in capsys.readouterr().err
    assert main([*search, "data.split.held_out_units=0.25"]) == 0
    assert len(asked) == 2


def test_a_file_that_is_not_there_is_said_once(train: Any, capsys: pytest.CaptureFixture[str]) -> None:
    asked = train()
    assert main(["train", "-m", "data=nwb", "data.path=nofile.nwb", "seed=0,1,2"]) == 2
    assert capsys.readouterr().err.count("nofile.nwb") == 1
    assert not asked
    assert not Path("runs").exists()


def test_a_stopped_sweep_keeps_what_is_done(train: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(experiment: Experiment) -> None:
        if experiment.seed == 1:
            os.kill(os.getpid(), signal.SIGINT)
            raise Interrupted(2, "runs/b")

    asked = train(stop)
    assert main(["train", "-m", "seed=0,1,2"]) == 130
    assert len(asked) == 2
    captured = capsys.readouterr()
    assert "1 of 3 runs done, 1 stopped, 1 queued" in captured.out
    assert "lvmzoo train resume=runs/b" in captured.err


def test_several_devices_do_not_go_with_a_sweep(train: Any, capsys: pytest.CaptureFixture[str]) -> None:
    asked = train()
    assert main(["train", "-m", "trainer=ddp", "seed=0,1"]) == 2
    assert not asked
    assert "trainer.devices=2 does not work in a sweep" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("lvmzoo ", {"train", "list", "show", "cite", "inspect", "simulate"}),
        ("lvmzoo sh", {"show"}),
        ("lvmzoo show ", set(registry.entries())),
        ("lvmzoo train model=ld", {"model=lds"}),
        ("lvmzoo train model=lds model.lat", {"model.latents="}),
        ("lvmzoo train tra", {"trainer="}),
    ],
)
def test_tab_completion(line: str, expected: set[str]) -> None:
    offered = set(complete(line))
    assert expected <= offered
    assert all(word.startswith(line.split(" ")[-1]) for word in offered)


def test_the_completion_script_asks_the_program(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["-sc", "install=bash"]) == 0
    assert "complete -o nospace -o default -F hydra_bash_completion lvmzoo" in capsys.readouterr().out
    monkeypatch.setenv("COMP_LINE", "lvmzoo train logger=w")
    assert main(["-sc", "query=bash"]) == 0
    assert capsys.readouterr().out.split() == ["logger=wandb"]


def test_an_error_is_logged_to_the_file_and_left_to_the_caller_to_print(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Interrupted), log_file(tmp_path):
        raise Interrupted(2, "runs/a")
    assert "Stopped by signal 2" in (tmp_path / "log.txt").read_text()
    with pytest.raises(ZeroDivisionError), log_file(tmp_path):
        1 / 0  # noqa: B018
    assert "Traceback" in (tmp_path / "log.txt").read_text()
    assert not caplog.records
