"""The command line: ``lvmzoo COMMAND`` for each of ``COMMANDS``.

Each command imports what it needs when it runs, so that the light ones start at once. Exit codes: 0 done; 2 a mistake
in the input; 1 a fault of the program; 3 training diverged; 130 and 143 interrupted.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from lvmzoo.errors import DivergedError, Interrupted, UserError, printable, unknown

__all__ = ["failure", "main"]

COMMANDS = {
    "train": "fit a model to a recording and write a report",
    "select": "choose a setting of a model by cross-validation",
    "adapt": "add a new session to a trained model",
    "compare": "sweeps and runs side by side: one table, and a page",
    "transform": "write the latents of a recording into a copy of its NWB file",
    "list": "the models of the zoo",
    "show": "one model: what it does, its paper, its settings",
    "cite": "the paper behind a model, as BibTeX",
    "inspect": "what a file holds and what a run would use",
    "simulate": "write a simulated recording, ground truth included",
    "data": "download recordings from the DANDI archive",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors go to standard error."""
    warnings.formatwarning = _one_line
    try:
        return _dispatch(list(sys.argv[1:] if argv is None else argv))
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except Exception as error:
        code, lines = failure(error)
        print(printable("\n".join(lines)), file=sys.stderr)
        return code


def failure(error: Exception, written: Path | None = None) -> tuple[int, list[str]]:
    """Return the exit code of an exception and the lines that tell the user; a fault's traceback goes to a log file.

    Parameters
    ----------
    error : what was raised.
    written : the file that holds the traceback already; None makes one.
    """
    if os.environ.get("LVMZOO_DEBUG") == "1":
        traceback.print_exception(error)
    if isinstance(error, UserError):
        return 2, [f"Error: {error.what}", f"  {error.why}", f"  {error.fix}"]
    if isinstance(error, Interrupted):
        return 128 + error.signal, [str(error)]
    if isinstance(error, DivergedError):
        return 3, [f"Training diverged: {error}"]
    if written is None:
        with tempfile.NamedTemporaryFile("w", prefix="lvmzoo-", suffix=".log", delete=False, encoding="utf-8") as log:
            traceback.print_exception(error, file=log)
        written = Path(log.name)
    return 1, [
        f"lvmzoo failed: {type(error).__name__}: {error}",
        "  This is a fault of the program, not of your input.",
        f"  Please report it with the traceback in {written}.",
    ]


def _dispatch(arguments: list[str]) -> int:
    command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if command == "train":
        from lvmzoo import train_command

        return train_command.run(rest)
    if command == "select":
        from lvmzoo import select_command

        return select_command.run(rest)
    if command == "adapt":
        from lvmzoo import adapt_command

        return adapt_command.run(rest)
    if command in ("-sc", "--shell-completion", "--shell_completion"):
        from lvmzoo import completion

        return completion.run(rest)
    return _light(arguments or ["--help"])


def _light(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    from lvmzoo import commands

    if options.command == "list":
        commands.list_models()
    elif options.command == "show":
        commands.show(options.name)
    elif options.command == "cite":
        commands.cite(options.name)
    elif options.command == "inspect":
        commands.inspect_file(options.file)
    elif options.command == "simulate":
        commands.simulate(options.name, Path(options.file), seed=options.seed)
    elif options.command == "compare":
        from lvmzoo import compare_command

        compare_command.run(options.sources, options.out)
    elif options.command == "transform":
        from lvmzoo import transform_command

        transform_command.run(
            options.run, options.file, options.out, overwrite=options.overwrite, session=options.session
        )
    elif options.command == "data":
        from lvmzoo import data_command

        data_command.get(options.name, Path(options.out))
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        if found := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            choices = re.findall(r"\w+", found[2])
            raise unknown("command", found[1], choices, fix=f"`{self.prog} --help` explains them.")
        raise UserError(
            f"{self.prog}: {message}.",
            f"Usage: {' '.join(self.format_usage().split()).removeprefix('usage: ')}",
            f"`{self.prog} --help` explains the command.",
        )


def _parser() -> _Parser:
    parser = _Parser(
        prog="lvmzoo", description="Latent-variable models for neural population recordings.", formatter_class=_Help
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and stop")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, title="commands", parser_class=_Parser
    )
    parsers = {name: commands.add_parser(name, help=text, description=text) for name, text in COMMANDS.items()}
    parsers["show"].add_argument("name", help="a model of `lvmzoo list`")
    parsers["cite"].add_argument("name", help="a model of `lvmzoo list`")
    parsers["inspect"].add_argument("file", help="an NWB or npz file")
    parsers["simulate"].add_argument(
        "name", help="lds, regions, two_regions, lorenz, reach, spiral, van_der_pol, manifolds, movie or dissociation"
    )
    parsers["simulate"].add_argument("file", metavar="OUT.nwb", help="the file to write")
    parsers["simulate"].add_argument("--seed", type=int, default=0, help="of the simulated recording (default 0)")
    parsers["compare"].add_argument(
        "sources", metavar="SWEEP_OR_RUN", nargs="+", help="folders that `lvmzoo train` made"
    )
    parsers["compare"].add_argument("--out", metavar="DIR", help="where to write (default: the sweep, or a new folder)")
    transform = parsers["transform"]
    transform.add_argument("run", metavar="RUN", help="the folder of a trained run")
    transform.add_argument("file", metavar="FILE.nwb", help="a recording of the same units; it is not changed")
    transform.add_argument("--out", metavar="OUT.nwb", required=True, help="the copy to write")
    transform.add_argument("--overwrite", action="store_true", help="replace OUT.nwb if it exists")
    transform.add_argument("--session", metavar="NAME", help="whose units these are, for a run of several sessions")
    actions = parsers["data"].add_subparsers(
        dest="action", metavar="ACTION", required=True, title="actions", parser_class=_Parser
    )
    text = "download NWB files; a download that broke off goes on where it was"
    get = actions.add_parser("get", help=text, description=text)
    get.add_argument("name", metavar="dandi:ID[/PATH]", help="a dandiset, or a file or folder of it")
    get.add_argument("--out", metavar="DIR", default=".", help="the folder to put them in (default: this one)")
    return parser


class _Help(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog)
        # argparse forgets that names of commands are indented, and puts the text of the longest on a line of its own.
        self._action_max_length = 4 + max(map(len, COMMANDS))


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"lvmzoo {version('lvmzoo')}")
        parser.exit()


def _one_line(message: Warning | str, *_: object, **__: object) -> str:
    return f"Warning: {printable(str(message))}\n"


if __name__ == "__main__":
    sys.exit(main())
