"""The light commands: what the zoo holds, what a file holds, simulated recordings."""

from __future__ import annotations

import re
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lvmzoo import registry
from lvmzoo.errors import UserError, nearest, printable
from lvmzoo.fields import describe_fields
from lvmzoo.models.base import StatisticsModel, capabilities

__all__ = ["bibtex", "cite", "console_of_width", "fitting", "inspect_file", "list_models", "show", "simulate"]


def list_models() -> None:
    """Print every model by family, then the plugins that could not be loaded."""
    console = console_of_width()
    table = Table(box=None, pad_edge=False)
    for column in ("model", "family", "fitted by", "what it does"):
        table.add_column(column, overflow="fold", no_wrap=column == "model")
    for name, entry in registry.entries().items():
        table.add_row(name, entry.family.value, fitting(entry), escape(entry.summary))
    console.print(table)
    for name, reason in registry.broken_plugins().items():
        console.print(f"Plugin '{name}' could not be loaded: {reason}", style="red", markup=False)
    console.print(
        "\n`lvmzoo show NAME` explains one; `lvmzoo train model=NAME data=nwb data.path=FILE.nwb` fits it.",
        soft_wrap=True,
    )


def show(name: str) -> None:
    """Print what a model does, its paper, how it is trained and its settings."""
    entry = registry.get(name)
    console = console_of_width()
    console.print(f"{name}: {entry.summary}", style="bold", markup=False)
    console.print(f"Family: {entry.family.value.replace('_', ' ')}. Fitted by {fitting(entry)}.")
    console.print(f"Can do: {', '.join(capabilities(entry.model)) or 'latents only'}.")
    if entry.model.uses_inputs:
        console.print("Takes known inputs: data.inputs=[VARIABLE].")
    solved = issubclass(entry.model, StatisticsModel)  # the other fields are of gradient descent
    fields = [
        f.name for f in describe_fields(type(entry.training)) if not solved or f.name in ("max_epochs", "batch_size")
    ]
    training = [f"{name}={getattr(entry.training, name)}" for name in fields]
    recommended = ", ".join(text for text in training if not text.endswith("=None"))
    if recommended:
        console.print(f"Trained by default with {recommended}.")
    console.print(f"\n{entry.reference.citation}\nhttps://doi.org/{entry.reference.doi}\n")
    table = Table(box=None, pad_edge=False)
    for column in ("setting", "type", "default", "meaning"):
        table.add_column(column, overflow="fold", no_wrap=column == "setting")
    for field in describe_fields(entry.config):
        if field.name != "name":
            table.add_row(f"model.{field.name}", escape(field.type), escape(str(field.default)), escape(field.meaning))
    console.print(table)


def console_of_width(*, stderr: bool = False) -> Console:
    """Return a console as wide as the terminal, and wide where the output goes to a file or a pipe."""
    console = Console(highlight=False, stderr=stderr)
    return console if console.is_terminal else Console(width=140, highlight=False, stderr=stderr)


def cite(name: str) -> None:
    """Print the paper behind a model as BibTeX."""
    print(bibtex(registry.get(name).reference))


def bibtex(reference: registry.Reference) -> str:
    """Return a BibTeX entry whose note is the whole citation: authors, year, title and journal."""
    year = re.search(r"\((\d{4})", reference.citation)
    fields = {"note": reference.citation, "doi": reference.doi, **({"year": year[1]} if year else {})}
    return (
        f"@misc{{{reference.key},\n" + "".join(f"  {key} = {{{value}}},\n" for key, value in fields.items()) + "}"
    ).replace("&", r"\&")


def fitting(entry: registry.Entry) -> str:
    """Return how a model is fitted, in a word or two."""
    if issubclass(entry.model, StatisticsModel):
        return "EM" if entry.model.passes is None else "closed form"
    return "gradient descent"


def inspect_file(path: str) -> None:
    """Print what a file holds and what a run would use."""
    from lvmzoo.config import DataConfig
    from lvmzoo.data.load import describe

    print(printable(describe(path, DataConfig(path=path))))


def simulate(name: str, path: Path, seed: int) -> None:
    """Write a simulated recording to an NWB file; raises UserError where the file cannot be written."""
    from lvmzoo.simulate import get

    simulator = get(name)
    if path.suffix != ".nwb":
        raise UserError(
            f"The output file '{path}' does not end in .nwb.",
            "Simulated recordings are written as NWB files.",
            f"Write {path.with_suffix('.nwb')} instead.",
        )
    if not path.parent.is_dir():
        close = nearest(path.parent.name, [folder.name for folder in Path(path.parent.parent).glob("*/")])
        raise UserError(
            f"The folder '{path.parent}' does not exist.",
            "The file is written into an existing folder.",
            f"Did you mean '{path.parent.parent / close}'?" if close else f"Create it: mkdir -p {path.parent}",
        )
    from lvmzoo.data.recording import Recording
    from lvmzoo.data.write_nwb import write_nwb

    made = simulator(seed=seed)
    assert isinstance(made, Recording), "with its defaults a simulator makes one session"
    write_nwb(made, path)
    print(f"Wrote {path}. Look at it: lvmzoo inspect {path}")
