"""``lvmzoo transform``: a trained model and an NWB file in, a copy of the file with latents, rates and behavior out."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape
from rich.table import Table

from lvmzoo.commands import console_of_width
from lvmzoo.context import threads
from lvmzoo.data.files import files_of
from lvmzoo.data.nwb import read_nwb
from lvmzoo.errors import UserError
from lvmzoo.inferred import infer
from lvmzoo.nwb_out import check_output, write_copy
from lvmzoo.run import load_run

__all__ = ["run"]

MINIMUM_SHARE = 0.5  # of the units of the model that a recording has to hold


def _one(file: str) -> Path:
    files = files_of([file])
    if len(files) > 1:
        raise UserError(
            f"'{file}' stands for {len(files)} files.",
            "One recording is transformed at a time, into a file of its own.",
            f"Give one of them: {files[0]}.",
        )
    return files[0]


def run(folder: str, file: str, out: str, *, overwrite: bool, session: str | None) -> None:
    """Run ``lvmzoo transform`` and print what was written; raises UserError for mistakes in its arguments."""
    source, target = _one(file), Path(out).expanduser()
    check_output(source, target, overwrite)
    trained = load_run(folder)
    recording = read_nwb(source, trained.experiment.data)
    with threads(trained.experiment.trainer, trained.model):
        inferred = infer(trained, recording, session)
    found, known = len(inferred.units), trained.model.layouts[inferred.session].n_units
    if found < MINIMUM_SHARE * known:
        raise UserError(
            f"'{source}' holds {found} of the {known} units of the model.",
            "Units are matched by id, and so few in common are most often other units that are numbered alike.",
            "Give a recording of the units that the run was fitted to, or fit a model to this one.",
        )
    written = write_copy(inferred, source, target, overwrite=overwrite)
    print(
        f"Inferred {len(inferred.time_s)} bins of {inferred.bin_width_s:g} s in {len(inferred.trials)} "
        f"trial{'s' * (len(inferred.trials) != 1)} from {found} of the {known} units of the model."
    )
    if others := recording.n_units - found:
        print(f"{others} units of the file are unknown to the model and were not used.")
    print(f"Wrote {target}, a copy of {source.name} with")
    table = Table(box=None, pad_edge=False, show_header=False)
    for series in written:
        place = escape(f"processing/{series.module}/{series.name}")
        table.add_row(f"  {place}", " x ".join(map(str, series.shape)), escape(series.unit))
    console_of_width().print(table)
