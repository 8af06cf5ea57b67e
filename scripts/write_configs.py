"""Write configs/model/*.yaml and configs/trainer/default.yaml from the config dataclasses, with each field's meaning.

The dataclasses are the only home of defaults; a test holds these files equal to them.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from lvmzoo import registry
from lvmzoo.config import TrainerConfig
from lvmzoo.fields import describe_fields

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
HEADER = "# Written by scripts/write_configs.py from {source}; change the defaults there."


def files() -> dict[Path, str]:
    """Return every generated file and its text."""
    written = {
        CONFIGS / "model" / f"{name}.yaml": model_yaml(name, entry)
        for name, entry in registry.entries().items()
        if entry.model.__module__.startswith("lvmzoo.")  # not those of plugins
    }
    lines = [HEADER.format(source="lvmzoo/config.py"), *_lines(TrainerConfig())]
    return {**written, CONFIGS / "trainer" / "default.yaml": "\n".join(lines) + "\n"}


def model_yaml(name: str, entry: registry.Entry) -> str:
    """Return the config file of one model."""
    source = entry.config.__module__.replace(".", "/") + ".py"
    lines = [
        HEADER.format(source=source),
        *textwrap.wrap(entry.summary, 116, initial_indent="# ", subsequent_indent="# "),
        "defaults:",
        f"  - /schema/model/{name}@_here_",
        "  - _self_",
        "",
        *_lines(entry.config()),
    ]
    return "\n".join(lines) + "\n"


def _lines(config: Any, indent: str = "") -> Iterator[str]:
    for field in describe_fields(type(config)):
        value = getattr(config, field.name)
        comment = f" # {field.meaning}" if field.meaning else ""
        if dataclasses.is_dataclass(value):
            yield f"{indent}{field.name}:{comment}"
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{field.name}: {_scalar(value)}{comment}"


def _scalar(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=10_000).removesuffix("...\n").strip()


def main() -> None:
    """Write the files; remove those of models that are gone."""
    wanted = files()
    for path in (CONFIGS / "model").glob("*.yaml"):
        if path not in wanted:
            path.unlink()
    for path, text in wanted.items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(CONFIGS.parent))


if __name__ == "__main__":
    main()
