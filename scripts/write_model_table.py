"""Write the table of models into README.md from the registry; a test fails when it is stale."""

from __future__ import annotations

import re
from pathlib import Path

from lvmzoo import registry
from lvmzoo.commands import fitting
from lvmzoo.models.base import capabilities

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- models: written by scripts/write_model_table.py -->", "<!-- end of models -->"


def table() -> str:
    """Return the table in Markdown, plugins left out."""
    lines = ["| model | family | fitted by | what it does | can do | paper |", "|---|---|---|---|---|---|"]
    for name, entry in registry.entries().items():
        if not entry.model.__module__.startswith("lvmzoo."):
            continue
        authors = entry.reference.citation.partition(").")[0] + ")"
        cells = [
            f"`{name}`",
            entry.family.value.replace("_", " "),
            fitting(entry),
            entry.summary,
            ", ".join(map(words, capabilities(entry.model))) or "latents",
            f"[{authors}](https://doi.org/{entry.reference.doi})",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def words(capability: str) -> str:
    """Return the name of a capability as words: HasPosterior as has posterior."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", capability).lower()


def with_table(text: str) -> str:
    """Return the text of the README with the present table in it."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
