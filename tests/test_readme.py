"""The README and docs say what is true: the table is the registry's, links and settings exist, the Python runs."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from lvmzoo.cli import COMMANDS
from lvmzoo.estimator import Estimator
from lvmzoo.store import compose

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_models_is_the_registry() -> None:
    text = (ROOT / "README.md").read_text()
    assert text == script("write_model_table").with_table(text), "run: python scripts/write_model_table.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_name_what_exists(page: Path) -> None:
    """Every `lvmzoo train` in the pages composes, and every other command is one."""
    text = re.sub(r"\\\n\s*", " ", page.read_text())
    for line in re.findall(
        r"lvmzoo ((?:train|[a-z]+) ?[^`\n#]*)", "\n".join(re.findall(r"```sh\n(.*?)```", text, re.S))
    ):
        words = line.split()
        assert words[0] in COMMANDS, line
        overrides = [word.strip("'\"") for word in words[1:] if "=" in word and not word.startswith("-")]
        if words[0] == "train" and "-m" not in words and "--config-dir" not in words and "-sc" not in words:
            compose(overrides)


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    counts = np.random.default_rng(0).poisson(1.0, (20, 50, 12))
    names: dict[str, Any] = {"counts": counts}
    exec(code, names)
    assert names["latents"].shape == (20, 50, 4)
    np.testing.assert_array_equal(names["model"].transform(counts), names["latents"])


def test_the_python_of_the_models_page_runs() -> None:
    of_lds, of_psid = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "models.md").read_text(), re.S)
    random = np.random.default_rng(0)
    names: dict[str, Any] = {"Estimator": Estimator, "counts": random.poisson(1.0, (6, 20, 5))}
    exec(of_lds, names)
    assert names["draws"].shape == (100, 6, 20, 2)
    np.testing.assert_allclose(names["latents"], names["model"].filtered(names["batch"])[:, -1], atol=1e-9)
    trials = random.normal(size=(8, 60, 6)).cumsum(1)
    names = {"Estimator": Estimator, "trials": trials, "behavior": trials[..., :2] + random.normal(size=(8, 60, 2))}
    exec(of_psid, names)
    assert names["velocity"].shape == names["hand"]["behavior"].shape == (8, 60, 2)
    assert [len(part) for part in names["modes"].values()] == [2, 2]
    assert names["ahead"].shape == trials.shape


def test_claims_are_merged_by_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claims = script("claims")
    monkeypatch.setattr(claims, "ROOT", tmp_path)
    folder = tmp_path / "scripts" / "results"
    folder.mkdir(parents=True)
    for name in ("a", "b"):
        claim = f"{{'claim': '{name} is fast', 'bound': 1, 'measured': 2.0, 'spread': 0.1, 'source': 'x', 'ok': True}}"
        (folder / f"{name}.py").write_text(f"def run():\n    return [{claim}]\n")
    assert claims.scripts("results") == ["a", "b"]
    for name in ("b", "a", "a"):
        claims.merge("results", name, claims.run_script("results", name))
    page = (tmp_path / "RESULTS.md").read_text()
    assert [line.split(" | ")[0] for line in page.splitlines() if "is fast" in line] == ["| a is fast", "| b is fast"]
    assert "make results NAME=a" in page
