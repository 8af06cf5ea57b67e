"""Run folders and checkpoints of somebody else: code, sizes that nothing holds, settings that fit nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import struct
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from lvmzoo import checkpoint
from lvmzoo.cli import main
from lvmzoo.run import read_experiment
from lvmzoo.run_files import rebuilding
from lvmzoo.train import train
from tests.bad_inputs import nwb
from tests.bad_inputs.case import CANARY, Case, Payload

Change = Callable[[Path], Any]
TRANSFORM = ("transform", "RUN", "FILE", "--out", "OUT")
RESUME = ("train", "resume=RUN")
ADAPT = ("adapt", "RUN", "data.path=FILE")
COMPARE = ("compare", "RUN")
FORCED = (("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1"),)


@functools.cache
def good() -> Path:
    """A finished run of principal components."""
    folder = Path(tempfile.mkdtemp(prefix="lvmzoo-test-"))
    data = folder / "session.nwb"
    shutil.copy(nwb.good(), data)
    words = ["model=pca", "model.latents=2", "data=nwb", f"data.path={data}", f"output={folder}", "name=run"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert main(["train", *words, "report=false", "trainer.progress=false"]) == 0
    return folder


def changed(
    name: str, change: Change, says: str, command: Sequence[str] = TRANSFORM, environment: Any = (), code: int = 2
) -> Case:
    """A good run that a function changes; what a command says of it."""

    def write(folder: Path) -> list[str]:
        shutil.copytree(good() / "run", folder / "run")
        change(folder / "run")
        places = {"RUN": folder / "run", "FILE": good() / "session.nwb", "OUT": folder / "out.nwb"}
        return [re.sub("|".join(places), lambda word: str(places[word[0]]), text) for text in command]

    return Case(f"run: {name}", write, says, code, environment)


def resumed(name: str, change: Change, says: str) -> Case:
    """A good run that a function changes and Python resumes: what is said of the fit before is not printed there."""

    def write(folder: Path) -> Callable[[], object]:
        shutil.copytree(good() / "run", folder / "run")
        change(folder / "run")
        experiment = dataclasses.replace(read_experiment(folder / "run"), resume=str(folder / "run"))
        return lambda: train(experiment)

    return Case(f"run: {name}", write, says)


def text(file: str, content: str) -> Change:
    return lambda run: (run / file).write_text(content)


def setting(*keys: str, to: Any) -> Change:
    """Change one value in run.json."""

    def change(run: Path) -> None:
        described = json.loads((run / "run.json").read_text())
        place = described
        for key in keys[:-1]:
            place = place[int(key)] if isinstance(place, list) else place[key]
        place[keys[-1]] = to
        (run / "run.json").write_text(json.dumps(described))

    return change


def replaced(file: str, old: str, new: str) -> Change:
    def change(run: Path) -> None:
        content = (run / file).read_text()
        assert old in content
        (run / file).write_text(content.replace(old, new.replace("CANARY", str(run / CANARY))))

    return change


def tensors(change: Callable[[dict[str, torch.Tensor]], Any], file: str = "model.safetensors") -> Change:
    def write(run: Path) -> None:
        state = load_file(run / file)
        change(state)
        save_file(state, run / file)

    return write


def declared(header: bytes, length: int | None = None) -> Change:
    """Write a safetensors file of a header alone."""
    size = struct.pack("<Q", len(header) if length is None else length)
    return lambda run: (run / "model.safetensors").write_bytes(size + header)


def pickled(file: str) -> Change:
    return lambda run: (run / file).write_bytes(pickle.dumps(Payload(run)))


def saved(run: Path, state: Any) -> None:
    """Write a checkpoint whose checksum is right."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    signed(run, buffer.getvalue())


def signed(run: Path, content: bytes) -> None:
    digest = hashlib.blake2b(content, digest_size=checkpoint.DIGEST_BYTES).digest()
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(checkpoint.MAGIC + digest + content)


def payload(run: Path) -> None:
    saved(run, Payload(run))


def nested(run: Path) -> None:
    saved(run, {"origin": {"version": [Payload(run)]}, "model": {"x": torch.zeros(2)}})


def pickle_in_pickle(run: Path) -> None:
    saved(run, {"origin": pickle.dumps(Payload(run))})


def plain_pickle(run: Path) -> None:
    signed(run, pickle.dumps({"x": Payload(run)}))


def unsigned(run: Path) -> None:
    for path in (run / "checkpoints").iterdir():
        torch.save(Payload(run), path)


def state(change: Callable[[dict[str, Any]], Any]) -> Change:
    """Change what a checkpoint holds; its checksum is right."""

    def write(run: Path) -> None:
        stored = checkpoint.read_checkpoint(run / "checkpoints" / "last.ckpt")
        change(stored)
        saved(run, stored)

    return write


def linked(name: str) -> Change:
    """Put a link to elsewhere in the place of a file or folder of a run."""

    def write(run: Path) -> None:
        if (run / name).exists():
            (run / name).rename(run.parent / "elsewhere")
        (run / name).symlink_to(run.parent / "elsewhere")

    return write


class _Large:
    def __reduce__(self) -> tuple[object, tuple[int]]:
        return bytearray, (10**15,)


def large(run: Path) -> None:
    saved(run, {"origin": _Large()})


def terabytes(folder: Path) -> Callable[[], None]:
    """What a model does whose settings say a million latents."""
    (folder / "model.safetensors").touch()

    def call() -> None:
        with rebuilding(folder):
            torch.zeros(1_000_000, 1_000_000)

    return call


BOMB = "a: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"b{i}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(5)
)
HUGE = b'{"components":{"dtype":"F64","shape":[1000000,1000000],"data_offsets":[0,8000000000000]}}'
DEEP = "[" * 100_000

CASES = [
    # ------------------------------------------------------------------ code
    changed("a pickle for a model", pickled("model.safetensors"), "model.safetensors cannot be read"),
    changed("a pickle for readouts", pickled("readouts.safetensors"), "readouts.safetensors cannot be read"),
    changed("a pickle for a description", pickled("run.json"), "run.json cannot be read"),
    changed("a model that is a module", setting("model", to="os"), "There is no model named 'os'"),
    changed("a model that is a path", setting("model", to="../../x"), "There is no model named '../../x'"),
    changed("a checkpoint that is a pickle", payload, "There is no usable checkpoint", RESUME),
    changed("a pickle deep in a checkpoint", nested, "There is no usable checkpoint", RESUME),
    changed("a pickle in a pickle", pickle_in_pickle, "is not one of a run", RESUME),
    changed("a plain pickle for a checkpoint", plain_pickle, "There is no usable checkpoint", RESUME),
    changed("a checkpoint without a checksum", unsigned, "There is no usable checkpoint", RESUME),
    changed("code is forced", payload, "There is no usable checkpoint", RESUME, FORCED),
    changed("code is forced, deep in it", nested, "There is no usable checkpoint", RESUME, FORCED),
    changed("code is forced, a plain pickle", plain_pickle, "There is no usable checkpoint", RESUME, FORCED),
    changed(
        "a tag in the settings",
        replaced("config.yaml", "seed: 0\noutput", "seed: !!python/object/apply:os.mkdir [CANARY]\noutput"),
        "config.yaml",
        RESUME,
    ),
    changed(
        "a secret in the settings",
        replaced("config.yaml", "name: run", "name: ${oc.env:LVMZOO_SECRET}"),
        "config.yaml, line",
        RESUME,
    ),
    changed("a secret in a model", setting("config", "name", to="${oc.env:LVMZOO_SECRET}"), "model.name refers to"),
    changed(
        "a secret in settings that are adapted",
        replaced("config.yaml", "name: run", "name: ${oc.env:HOME}"),
        "config.yaml, line",
        ADAPT,
    ),
    Case("run: an address", ["transform", "https://example.com/run", str(Path("x.nwb")), "--out", "o.nwb"], "x.nwb"),
    Case("run: an address to resume", ["train", "resume=https://example.com/run"], "There is no run in https:"),
    # ----------------------------------------------------------------- sizes
    changed("eight terabytes", declared(HUGE), "model.safetensors cannot be read"),
    changed("a header of exabytes", declared(b"{}", 2**62), "model.safetensors cannot be read"),
    changed("a deep header", declared(DEEP.encode()), "model.safetensors cannot be read"),
    changed("a trillion latents", setting("config", "latents", to=10**12), "cannot be rebuilt"),
    changed("a billion latents", setting("config", "latents", to=10**9), "cannot be rebuilt"),
    Case("run: a tensor of eight terabytes", terabytes, "cannot be rebuilt: MemoryError: a tensor of the size"),
    changed("latents below zero", setting("config", "latents", to=-3), "model.latents is -3"),
    changed("a trillion units", setting("layouts", "0", "units", to={"V1": 10**12}), "run"),
    changed("a checkpoint that asks for a petabyte", large, "There is no usable checkpoint", RESUME),
    changed("aliases of aliases", text("config.yaml", BOMB), "stands for more than 20000 values", RESUME),
    changed("a deep description", text("run.json", DEEP), "run.json cannot be read"),
    changed("deep scores", text("metrics.json", DEEP), "metrics.json cannot be read"),
    changed("deep settings", text("config.yaml", DEEP), "deeper than 20 levels", RESUME),
    changed(
        "a pipe for a model",
        lambda run: [(run / "model.safetensors").unlink(), os.mkfifo(run / "model.safetensors")],
        "it is no regular file",
    ),
    changed(
        "a device for a description",
        lambda run: [(run / "run.json").unlink(), (run / "run.json").symlink_to("/dev/zero")],
        "it is no regular file",
    ),
    changed(
        "a pipe for a checkpoint",
        lambda run: [[p.unlink(), os.mkfifo(p)] for p in [*(run / "checkpoints").iterdir()]],
        "checkpoint",
        RESUME,
    ),
    # ------------------------------------------------------------- elsewhere
    changed("a log that is a link", linked("log.txt"), "log.txt is a link to", RESUME),
    changed("checkpoints that are a link", linked("checkpoints"), "checkpoints is a link to", RESUME),
    changed("a checkpoint that is a link", linked("checkpoints/last.ckpt"), "last.ckpt is a link to", RESUME),
    changed("a folder to come that is a link", linked("last_good"), "last_good is a link to", RESUME),
    changed(
        "a pipe for a log",
        lambda run: [(run / "log.txt").unlink(missing_ok=True), os.mkfifo(run / "log.txt")],
        "log.txt cannot be read: it is no regular file",
        RESUME,
    ),
    # ------------------------------------------------------------------ fits
    resumed(
        "a checkpoint of another model",
        state(lambda stored: stored["model"].update(mean=torch.zeros(9, 9))),
        "does not fit the run",
    ),
    resumed("a checkpoint without a model", state(lambda stored: stored.pop("model")), "does not fit the run"),
    resumed("a checkpoint without progress", state(lambda stored: stored.update(progress="x")), "does not fit"),
    resumed(
        "a checkpoint of a best model that is none",
        state(lambda stored: stored["record"].update(best={"x": torch.zeros(2)})),
        "does not fit the run",
    ),
    resumed("a checkpoint of no data", state(lambda stored: stored["origin"].update(data=1)), "is not one"),
    resumed(
        "a checkpoint of data without facts",
        state(lambda stored: stored["origin"]["data"].update(session={})),
        "has other units",
    ),
    changed("a model without its tensors", tensors(lambda state: state.clear()), "cannot be rebuilt"),
    changed(
        "a tensor of another shape",
        tensors(lambda state: state.update({next(iter(state)): torch.zeros(3, 3, 3)})),
        "cannot be rebuilt",
    ),
    changed("a tensor too many", tensors(lambda state: state.update(x=torch.zeros(1))), "cannot be rebuilt"),
    changed(
        "half a model", lambda run: os.truncate(run / "model.safetensors", 300), "model.safetensors cannot be read"
    ),
    changed("no model", lambda run: (run / "model.safetensors").unlink(), "There is no finished run"),
    changed("no settings", lambda run: (run / "config.yaml").unlink(), "There is no run in"),
    changed("a description that is a list", text("run.json", "[1, 2]"), "cannot be rebuilt"),
    changed("a description of nothing", text("run.json", "{}"), "cannot be rebuilt"),
    changed("a later format", setting("format", to=99), "has format 99"),
    changed("a format of text", setting("format", to="new"), "cannot be rebuilt"),
    changed("an unknown setting", setting("config", "latens", to=3), "Did you mean 'latents'?"),
    changed("a text for a number", setting("config", "latents", to="many"), "model.latents"),
    changed("no layout", setting("layouts", to=[]), "was given 0 sessions"),
    changed("an unknown readout", setting("readouts", "0", "kind", to="oracle"), "There is no decoder named 'oracle'"),
    changed("scores that are none", text("metrics.json", '{"a": 1}'), "cannot be rebuilt"),
    changed("a history that is none", text("history.csv", ""), "cannot be read"),
    changed("findings that are none", text("findings.json", "[1]"), "findings.json cannot be read"),
    changed(
        "settings of another type", replaced("config.yaml", "max_epochs: ", "max_epochs: many #"), "max_epochs", RESUME
    ),
    changed("settings that are a text", text("config.yaml", "seed\n"), "config.yaml cannot be read", RESUME),
    changed(
        "an unknown model in the settings", replaced("config.yaml", "name: pca", "name: pcb"), "named 'pcb'", RESUME
    ),
    changed("a run that is not finished", lambda run: (run / "metrics.json").unlink(), "is not finished", COMPARE),
    changed("a comparison of a damaged run", text("run.json", DEEP), "run.json cannot be read", COMPARE),
    changed("a comparison of a run without facts", text("run.json", "{}"), "run.json cannot be read", COMPARE),
    changed("a comparison of an outcome that is none", text("job-0.json", "[]"), "job-0.json cannot be read", COMPARE),
    changed("a comparison of a job of no number", text("job-x.json", "{}"), "job-", COMPARE),
    Case("run: no folder", ["transform", "nowhere", "nothing.nwb", "--out", "o.nwb"], "nothing.nwb"),
]
