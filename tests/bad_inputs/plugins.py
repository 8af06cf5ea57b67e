"""Plugins that fail, that take the place of others, or that are no models; each is named, and all else is there."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from lvmzoo import registry
from tests.bad_inputs.case import Case

MODEL = """
from dataclasses import dataclass
from lvmzoo.models.single_region.pca import PCA
from lvmzoo.registry import Entry, Family, Reference, register

@dataclass(frozen=True)
class Config:
    name: str = "NAME"
    latents: int = 2

class Mine(PCA):
    "Another one."

paper = Reference("A (2000). B. C.", "10.1/1", "a2000b")
register(Entry(Mine, Config, Family.SINGLE_REGION, paper, lambda _: Config()))
"""


def plugin(
    name: str,
    text: str,
    says: str,
    point: str = "mine",
    value: str = "lvmzoo_bad",
    code: int = 0,
    environment: tuple[tuple[str, str], ...] = (),
) -> Case:
    """A package with an entry point, in a folder of its own; what `lvmzoo list` says of it."""

    def write(folder: Path) -> list[str]:
        described = folder / "site" / "lvmzoo_bad-1.dist-info"
        described.mkdir(parents=True)
        (described / "METADATA").write_text("Metadata-Version: 2.1\nName: lvmzoo-bad\nVersion: 1\n")
        (described / "entry_points.txt").write_text(f"[lvmzoo.models]\n{point} = {value}\n")
        (folder / "site" / "lvmzoo_bad.py").write_text(text)
        return ["list"]

    return Case(f"plugin: {name}", write, says, code, environment)


@contextlib.contextmanager
def installed(site: Path) -> Iterator[None]:
    """Look for plugins again, in one more folder; afterwards everything is as it was."""
    entries, broken = dict(registry.entries()), dict(registry._broken)
    registry._discover.cache_clear()
    importlib.invalidate_caches()
    try:
        with mock.patch.object(sys, "path", [str(site), *sys.path]), mock.patch.object(registry, "SLOW_S", 0.2):
            yield
            assert set(entries) <= set(registry._entries), "a plugin harmed what is there"
            assert all(registry._entries[name] is entry for name, entry in entries.items())
    finally:
        for held, before in ((registry._entries, entries), (registry._broken, broken)):
            held.clear()
            held.update(before)
        sys.modules.pop("lvmzoo_bad", None)
        registry._discover.cache_clear()


NOTHING = "could not be loaded"
CASES = [
    plugin(
        "an import that fails", "import nowhere_to_be_found", "Plugin 'mine' could not be loaded (ModuleNotFoundError"
    ),
    plugin("an exception", "1 / 0", "could not be loaded (ZeroDivisionError"),
    plugin("no Python", "def (", "could not be loaded (SyntaxError"),
    plugin("an exit", "import sys; sys.exit(0)", "could not be loaded (SystemExit"),
    plugin(
        "an import that takes long", "import time; time.sleep(0.5)", "is being imported for 0.2 s; LVMZOO_PLUGINS=off"
    ),
    plugin("no module", "", NOTHING, value="lvmzoo_bad_nowhere"),
    plugin("no function", "", NOTHING, value="lvmzoo_bad:nowhere"),
    plugin("the name of ours", MODEL.replace("NAME", "lds"), "The model name 'lds' of lvmzoo_bad is taken by lvmzoo"),
    plugin("broken under the name of ours", "1 / 0", "Plugin 'lds (lvmzoo_bad)' could not be loaded", point="lds"),
    plugin(
        "ours replaced",
        MODEL.replace("NAME", "mine") + "from lvmzoo import registry\n"
        "registry._entries['lds'] = registry._entries['mine']\n",
        "it takes the place of the model 'lds'",
    ),
    plugin("broken after it registered", MODEL.replace("NAME", "mine") + "1 / 0\n", "(ZeroDivisionError"),
    plugin("a name that is a path", MODEL.replace("NAME", "../../mine"), "the name '../../mine' is not lower case"),
    plugin("a model that is none", MODEL.replace("NAME", "mine").replace("(PCA)", ""), "is no subclass of"),
    plugin(
        "a family that is none",
        MODEL.replace("NAME", "mine").replace("Family.SINGLE_REGION", "'mine'"),
        "Plugin 'mine' could not be loaded (Type",
    ),
    plugin("an entry that is none", "from lvmzoo.registry import register\nregister('mine')\n", NOTHING),
    plugin("a config without a name", MODEL.replace('    name: str = "NAME"\n', ""), "(AttributeError"),
]
