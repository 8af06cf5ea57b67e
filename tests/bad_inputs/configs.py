"""Files of configs and overrides that name code, other places or secrets, or that are made to exhaust memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.bad_inputs.case import CANARY, Case

USED = ("model=pca", "data=nwb", "data.path=nothing.nwb")


def file(
    name: str, text: str | bytes, says: str, where: str = "experiment/mine.yaml", more: Sequence[str] = USED
) -> Case:
    """A file in a folder of configs; CANARY in its text stands for the path of the canary."""

    def write(folder: Path) -> list[str]:
        path = folder / "configs" / where
        path.parent.mkdir(parents=True, exist_ok=True)
        (folder / "configs" / "experiment").mkdir(exist_ok=True)
        content = text if isinstance(text, bytes) else text.replace("CANARY", str(folder / CANARY)).encode()
        path.write_bytes(content)
        if not (folder / "configs/experiment/mine.yaml").exists():
            (folder / "configs/experiment/mine.yaml").write_text("# @package _global_\nseed: 1\n")
        flags = ["-m"] if "-m" in more else []
        words = [word for word in more if word != "-m"]
        return ["train", *flags, "--config-dir", str(folder / "configs"), "experiment=mine", *words]

    return Case(name, write, says)


def other(name: str, prepare: Callable[[Path], object], says: str, more: Sequence[str] = USED) -> Case:
    """A folder of configs that a function fills."""

    def write(folder: Path) -> list[str]:
        (folder / "configs" / "experiment").mkdir(parents=True)
        prepare(folder / "configs")
        return ["train", "--config-dir", str(folder / "configs"), "experiment=mine", *more]

    return Case(name, write, says)


def override(name: str, words: Sequence[str], says: str, sweep: bool = False) -> Case:
    return Case(name, ["train", *["-m"] * sweep, "model=pca", "data=nwb", "data.path=nothing.nwb", *words], says)


HEAD = "# @package _global_\n"
MKDIR = "_target_: os.mkdir\n{0}path: CANARY\n"
EXPANDING = "a: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"b{i}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(5)
)
REFERRING = (
    HEAD
    + "data:\n  simulator_options:\n    a0: [1, 1]\n"
    + "".join(f"    a{i + 1}: ['${{..a{i}}}', '${{..a{i}}}']\n" for i in range(24))
)

CASES = [
    # ------------------------------------------------------------ code
    file("target in a model", HEAD + "model:\n  _target_: os.mkdir\n  path: CANARY\n", "mine.yaml, line 3 names code"),
    file(
        "target in free settings", HEAD + "data:\n  simulator_options:\n    _target_: os.mkdir\n", "line 4 names code"
    ),
    file(
        "target of a callback",
        HEAD + "hydra:\n  callbacks:\n    x:\n      _target_: os.mkdir\n      path: CANARY\n",
        "mine.yaml, line 3 sets hydra.callbacks",
    ),
    file(
        "target of a launcher",
        HEAD + "hydra:\n  launcher:\n    _target_: os.mkdir\n    path: CANARY\n",
        "mine.yaml, line 4 names code to run: 'os.mkdir'",
        more=("-m", *USED),
    ),
    file(
        "target of a sweeper",
        HEAD + "hydra:\n  sweeper:\n    _target_: os.mkdir\n    path: CANARY\n",
        "mine.yaml, line 4 names code",
        more=("-m", *USED),
    ),
    file(
        "target of a sampler",
        HEAD + "hydra:\n  sweeper:\n    sampler:\n      _target_: os.mkdir\n      path: CANARY\n",
        "mine.yaml, line 5 names code",
        more=("-m", "hydra/sweeper=optuna", *USED),
    ),
    file(
        "target in a launcher of that name",
        "_target_: os.mkdir\npath: CANARY\n",
        "mine.yaml, line 1 names code",
        "hydra/launcher/mine.yaml",
        ("-m", "hydra/launcher=mine", *USED),
    ),
    file(
        "target behind an alias",
        HEAD + "seed: &x os.mkdir\nhydra:\n  launcher:\n    _target_: *x\n",
        "line 5 names code",
        more=("-m", *USED),
    ),
    file(
        "target by a package",
        "# @package hydra.launcher\n_target_: os.mkdir\npath: CANARY\n",
        "line 2 names code",
        more=("-m", *USED),
    ),
    file(
        "target written as JSON",
        HEAD + '{"hydra": {"launcher": {"_target_": "os.mkdir", "path": "CANARY"}}}\n',
        "line 2 names code",
        more=("-m", *USED),
    ),
    file(
        "search space that is a function",
        HEAD + "hydra:\n  sweeper:\n    custom_search_space: os.getcwd\n",
        "hydra.sweeper.custom_search_space names code",
        more=("-m", "hydra/sweeper=optuna", *USED),
    ),
    file(
        "commands before a job",
        HEAD + "hydra:\n  launcher:\n    setup: ['mkdir CANARY']\n",
        "hydra.launcher.setup",
        more=("-m", "hydra/launcher=submitit_slurm", *USED),
    ),
    file(
        "a line more in a job's script",
        HEAD + 'hydra:\n  launcher:\n    partition: "a\\nmkdir CANARY"\n',
        "hydra.launcher.partition names code",
        more=("-m", "hydra/launcher=submitit_slurm", *USED),
    ),
    file(
        "storage of pickles",
        HEAD + "hydra:\n  sweeper:\n    storage: redis://localhost:1\n",
        "hydra.sweeper.storage is redis://",
        more=("-m", "hydra/sweeper=optuna", *USED),
    ),
    file(
        "formatter that is a function",
        "version: 1\nformatters:\n  x:\n    (): os.mkdir\n    path: CANARY\nroot: null\n",
        "sets hydra.job_logging",
        "hydra/job_logging/none.yaml",
        ("-m", *USED),
    ),
    file("Python tag", HEAD + "name: !!python/object/apply:os.mkdir [CANARY]\n", "mine.yaml, line 2"),
    file("Python name", HEAD + "name: !!python/name:os.mkdir\n", "mine.yaml, line 2"),
    file("environment set", HEAD + "hydra:\n  job:\n    env_set:\n      LD_PRELOAD: x.so\n", "line 3 sets hydra.job"),
    file("environment set by a package", "# @package hydra.job.env_set\nLD_PRELOAD: x.so\n", "sets hydra.job.env_set"),
    file("search path of a package", HEAD + "hydra:\n  searchpath: [pkg://this]\n", "line 3 sets hydra.searchpath"),
    file("output by Hydra", HEAD + "hydra:\n  run:\n    dir: CANARY\n  output_subdir: x\n", "sets hydra."),
    file(
        "another log by the list of defaults",
        HEAD + "defaults:\n  - override /hydra/job_logging: default\n",
        "line 3 sets override /hydra/job_logging",
    ),
    file(
        "primary config of that name",
        "defaults:\n  - _self_\nhydra:\n  callbacks:\n    x: {_target_: os.mkdir}\n",
        "train.yaml, line 4 sets hydra.callbacks",
        "train.yaml",
    ),
    file("output by Hydra, merged", HEAD + "<<: {hydra: {output_subdir: x}}\n", "line 2 sets hydra.output_subdir"),
    file(
        "output by Hydra, by another alias",
        HEAD + "data:\n  simulator_options: {hydra: &a {output_subdir: x}}\nhydra: *a\n",
        "sets hydra.output_subdir",
    ),
    file("a second package", "# @package data\n# @package hydra.job\nchdir: true\n", "line 3 sets hydra.job"),
    file("a package that Hydra does not see", "# A\n# @package data\nhydra: {output_subdir: x}\n", "line 3 sets hydra"),
    file("a package in two words", "# @package data hydra\nseed: 1\n", "begins with a line that cannot be read"),
    file(
        "settings of Hydra in the place of others",
        HEAD + "defaults:\n  - /data@hydra.job.env_set: lds\n",
        "line 3 sets hydra.job.env_set",
    ),
    file(
        "settings of Hydra in the place of others, a text",
        HEAD + "defaults:\n  - /data/lds@_global_.hydra.run\n",
        "line 3 sets hydra.run",
    ),
    file(
        "settings of Hydra within others", "hydra:\n  output_subdir: x\n", "line 2 sets hydra.output", "data/mine.yaml"
    ),
    file(
        "environment of the jobs of a sweep",
        HEAD + "hydra:\n  sweeper:\n    params:\n      +hydra.job.env_set.LD_PRELOAD: choice(a,b)\n",
        "sets hydra.job.env_set.LD_PRELOAD",
        more=("-m", "hydra/sweeper=optuna", *USED),
    ),
    file(
        "a folder elsewhere, beside what one's own words say",
        HEAD + "hydra:\n  launcher:\n    additional_parameters: {output: /CANARY}\n",
        "additional_parameters.output is",
        more=(
            "-m",
            "hydra/launcher=submitit_slurm",
            "+hydra.launcher.additional_parameters.nice=10",
            "hydra.launcher.setup=['module load cuda']",
            *USED,
        ),
    ),
    file(
        "options of a job's script",
        HEAD + "hydra:\n  launcher:\n    additional_parameters: {output: /CANARY}\n",
        "hydra.launcher.additional_parameters.output is",
        more=("-m", "hydra/launcher=submitit_slurm", *USED),
    ),
    file(
        "a folder elsewhere",
        HEAD + "hydra:\n  launcher:\n    submitit_folder: CANARY\n",
        "hydra.launcher.submitit_folder is",
        more=("-m", "hydra/launcher=submitit_local", *USED),
    ),
    # --------------------------------------------------------- secrets
    file("environment read", HEAD + "name: ${oc.env:LVMZOO_SECRET}\n", "mine.yaml, line 2 refers to something"),
    file(
        "environment read by a name put together", HEAD + "name: ${${model.name}:LVMZOO_SECRET}\n", "line 2 refers to"
    ),
    file("environment read with a default", HEAD + "name: ${oc.env:LVMZOO_SECRET,none}\n", "line 2 refers to"),
    file("environment read, written in codes", HEAD + 'name: "\\x24\\x7boc.env:LVMZOO_SECRET}"\n', "line 2 refers to"),
    file(
        "environment read in a list", HEAD + "data:\n  regions: [M1, '${oc.env:LVMZOO_SECRET}']\n", "line 3 refers to"
    ),
    file(
        "environment read by the list of defaults",
        HEAD + "defaults:\n  - override /model: ${oc.env:LVMZOO_SECRET}\n",
        "line 3 refers to",
    ),
    file("text decoded", HEAD + "name: ${oc.decode:'[1]'}\n", "line 2 refers to"),
    file("values created", HEAD + "data:\n  simulator_options: ${oc.create:{a:1}}\n", "line 3 refers to"),
    # ----------------------------------------------------------- bombs
    file(
        "aliases of aliases", HEAD + "a: &a [1]\n" + "".join(f"b{i}: [*a, *a]\n" for i in range(40)), "80 YAML aliases"
    ),
    file("few aliases, many values", HEAD + EXPANDING, "stands for more than 20000 values in line 6"),
    file("an alias of itself", HEAD + "data: &a\n  simulator_options: *a\n", "an alias of itself in line 2"),
    file("references of references", REFERRING, "holds 48 references"),
    file(
        "many values", HEAD + f"data:\n  regions: [{', '.join(['a'] * 30_000)}]\n", "more than 20000 values in line 3"
    ),
    file("deep lists", HEAD + "name: " + "[" * 3000 + "]" * 3000 + "\n", "deeper than 20 levels in line 2"),
    file("deep mappings", HEAD + "".join(f"{' ' * i}a:\n" for i in range(60)), "deeper than 20 levels in line 2"),
    file("two megabytes", HEAD + "name: " + "x" * 2_000_000, "is 2 MB large"),
    # ------------------------------------------------------ not a config
    file("not YAML", HEAD + "model: [3\n", "line 3 is not valid YAML"),
    file("tabs", HEAD + "model:\n\tlatents: 3\n", "line 3 is not valid YAML"),
    file("bytes that are no text", b"\xff\xfe\x00\x01", "cannot be read"),
    file("control characters", HEAD.encode() + b"name: a\x00b\n", "is not valid YAML"),
    file("two documents", HEAD + "seed: 1\n---\nseed: 2\n", "is not valid YAML"),
    file("a list for a mapping", HEAD + "- seed\n- 1\n", "mine"),
    file("a value for a mapping", HEAD + "just a text\n", "There is no setting named 'just a text'"),
    file("a byte order mark", b"\xef\xbb\xbf" + HEAD.encode() + b"seed: 1\n", "begins with a byte order mark"),
    file("a place that is not said", "seed: 1\n", "does not say where its settings go"),
    file("a key twice", HEAD + "seed: 1\nseed: 2\n", "duplicate key"),
    file("an unknown key", HEAD + "sed: 1\n", "Did you mean 'seed'?"),
    file("a text for a number", HEAD + "seed: few\n", "seed in experiment/mine.yaml has the wrong type"),
    file("a group that is none", HEAD + "trainer: fast\n", "wrong type"),
    file("a choice that is none", HEAD + "defaults:\n  - override /model: ldss\n", "Did you mean 'lds'?", more=()),
    file("the list of defaults is a text", HEAD + "defaults: lds\n", "mine"),
    file("a model that refers to itself", HEAD + "seed: ${seed}\n", "seed"),
    file("an infinite bin", HEAD + "data:\n  bin_width_s: .inf\n", "bin_width_s is inf", more=("data=lds",)),
    other("a pipe among the configs", lambda folder: os.mkfifo(folder / "experiment/mine.yaml"), "no regular file"),
    other(
        "a device among the configs",
        lambda folder: (folder / "experiment/mine.yaml").symlink_to("/dev/zero"),
        "no regular file",
    ),
    other(
        "a link to nothing", lambda folder: (folder / "experiment/mine.yaml").symlink_to("nowhere"), "no regular file"
    ),
    other(
        "folders in a circle", lambda folder: (folder / "experiment/more").symlink_to(folder), "experiment named 'mine'"
    ),
    Case("no folder of configs", ["train", "--config-dir", "nowhere", *USED], "'nowhere' does not exist"),
    Case("a file for a folder of configs", ["train", "--config-dir", "/dev/null", *USED], "does not exist"),
    Case("another primary config", ["train", "--config-name", "x", *USED], "are not supported"),
    # ------------------------------------------------------- overrides
    override(
        "override: target", ["+data.simulator_options._target_=os.mkdir"], "simulator_options._target_ names code"
    ),
    override("override: target of the launcher", ["hydra.launcher._target_=os.mkdir"], "names code", sweep=True),
    override("override: target of a sweeper", ["+hydra.sweeper.x={_target_:os.mkdir}"], "names code", sweep=True),
    override("override: callbacks", ["+hydra.callbacks.x._target_=os.mkdir"], "sets hydra.callbacks"),
    override("override: whole of Hydra", ["hydra={callbacks:{x:{_target_:os.mkdir}}}"], "sets hydra"),
    override("override: environment", ["+hydra.job.env_set.LD_PRELOAD=x.so"], "sets hydra.job.env_set"),
    override("override: environment in some jobs", ["+hydra.job.env_set.A=x,y"], "sets hydra.job.env_set", sweep=True),
    override("override: search path", ["hydra.searchpath=[pkg://this]"], "sets hydra.searchpath"),
    override("override: log", ["hydra/job_logging=default"], "sets hydra/job_logging"),
    override("override: secret", ["name=${oc.env:LVMZOO_SECRET}"], "refers to something that is no setting"),
    override("override: secret in some jobs", ["name=a,'${oc.env:LVMZOO_SECRET}'"], "refers to something", sweep=True),
    override(
        "override: function of a search",
        ["hydra/sweeper=optuna", "hydra.sweeper.custom_search_space=os.getcwd"],
        "names code",
        sweep=True,
    ),
    override("override: output by Hydra", ["+data@hydra.run=lds"], "sets hydra.run"),
    override("override: unknown launcher", ["hydra/launcher=jobblib"], "jobblib", sweep=True),
    override(
        "override: deep value", ["data.simulator_options=" + "{a:" * 200 + "1" + "}" * 200], "data.simulator_options"
    ),
    override("override: many values", [f"data.regions=[{','.join(['a'] * 30_000)}]"], "is 60014 characters long"),
    Case(
        "printing a callback", ["train", "--cfg", "job", "+hydra.callbacks.x._target_=os.mkdir"], "sets hydra.callbacks"
    ),
    Case("printing a secret", ["train", "--cfg", "job", "--resolve", "name=${oc.env:LVMZOO_SECRET}"], "refers to"),
    Case(
        "choosing with a secret",
        ["select", "model=pca", "model.latents=1,2", "name=${oc.env:LVMZOO_SECRET}"],
        "refers to something",
    ),
]
