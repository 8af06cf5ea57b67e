"""Arrays that are not what they say: npz files, and arrays in Python."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.bad_inputs.case import Case, Payload

COUNTS = np.random.default_rng(0).poisson(2.0, (300, 5))


def npz(name: str, says: str, code: int = 2, **arrays: Any) -> Case:
    """A file of some arrays, and what `lvmzoo train` says of it."""

    def write(folder: Path) -> list[str]:
        np.savez(folder / "a.npz", **arrays)
        return ["train", "model=pca", "data=arrays", f"data.path={folder / 'a.npz'}"]

    return Case(f"npz: {name}", write, says, code)


def file(name: str, make: Callable[[Path], Any], says: str) -> Case:
    """A path that a function fills."""

    def write(folder: Path) -> list[str]:
        make(folder / "a.npz")
        return ["inspect", str(folder / "a.npz")]

    return Case(f"npz: {name}", write, says)


def python(name: str, says: str, activity: Any, **others: Any) -> Case:
    """Arrays that a model is fitted to in Python."""

    def call() -> None:
        from lvmzoo import Estimator

        others.setdefault("y", None)
        y = others["y"]
        Estimator("pca", **{key: value for key, value in others.items() if key != "y"}).fit(activity, y)

    return Case(f"arrays: {name}", lambda _: call, says)


def member(content: bytes, declared: int | None = None) -> Callable[[Path], None]:
    """Write an archive of one array, ``counts``, whose bytes are given."""

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("counts.npy", content)
        if declared is not None:  # in the directory at the end, which says how much there is to read
            stored = path.read_bytes()
            place = stored.rindex(b"PK\x01\x02") + 24
            path.write_bytes(stored[:place] + struct.pack("<I", declared) + stored[place + 4 :])

    return write


def header(shape: str, dtype: str = "<f8", values: bytes = b"") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + values


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps(Payload(path.parent)))


def objects(path: Path) -> None:
    np.savez(path, counts=np.array([Payload(path.parent)], dtype=object))


def nested(path: Path) -> None:
    """An object in a field of a record."""
    records = np.zeros(1, dtype=[("a", "f8"), ("b", "O")])
    records["b"][0] = Payload(path.parent)
    np.savez(path, counts=records)


def single(path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, COUNTS)
    path.write_bytes(buffer.getvalue())


def corrupt(path: Path) -> None:
    np.savez_compressed(path, counts=COUNTS)
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(content)


def encrypted(path: Path) -> None:
    np.savez(path, counts=COUNTS)
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)


def twice(path: Path) -> None:
    """Two arrays of one name, one with its ending and one without."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("counts.npy", "counts"):
            archive.writestr(name, header("(2, 2)", values=bytes(32)))


CASES = [
    # ------------------------------------------------------------------ code
    file("a pickle", pickled, "cannot be read"),
    file("an array of objects", objects, "it holds Python objects"),
    file("an object within a record", nested, "it holds Python objects"),
    # ----------------------------------------------------------------- sizes
    file("eight terabytes", member(header("(1000000, 1000000)")), "declares 8000000000000 bytes in the array 'counts'"),
    file(
        "a size that overflows", member(header("(4294967296, 4294967296)")), "bytes in the array 'counts', and holds 0"
    ),
    file("a size below zero", member(header("(-5, 3)", values=bytes(80))), "a.npz"),
    file("a text of a gigabyte", member(header("(1,)", "<U100000000")), "declares 400000000 bytes"),
    file("more than is there", member(header("(100, 3)", values=bytes(8))), "declares 2400 bytes"),
    file("an archive that lies", member(header("(2, 2)", values=bytes(32)), 4_000_000_000), "a.npz"),
    file("a header of expressions", member(header("(" * 4000 + ")" * 4000)), "cannot be read"),
    file("a zero byte in a header", member(header("(2, 2), \0")), "header of the array 'counts' is damaged"),
    file("a header that does not end", member(header("(2, ")), "header of the array 'counts' is damaged"),
    file("a header that calls", member(header("__import__('os').mkdir('executed')")), "cannot be read"),
    # ----------------------------------------------------------- no archives
    file("text", lambda path: path.write_text("no archive"), "cannot be read"),
    file("nothing in it", lambda path: path.touch(), "cannot be read"),
    file("a single array", single, "holds a single array"),
    file("damaged", corrupt, "cannot be read"),
    file("encrypted", encrypted, "cannot be read"),
    file("a member that is no array", member(b"text"), "cannot be read"),
    file("an array twice", twice, "holds the array 'counts' twice"),
    file("a pipe", os.mkfifo, "There is no file"),
    # ---------------------------------------------------------------- arrays
    npz("no activity", "One of them must be the activity", spikes=COUNTS),
    npz("counts below zero", "negative or not whole", counts=COUNTS - 5),
    npz("counts of texts", "It must be numbers", counts=np.array([["a", "b"]] * 9)),
    npz("complex counts", "It must be numbers", counts=COUNTS + 1j),
    npz("dates for counts", "It must be numbers", counts=np.zeros((9, 2), "M8[s]")),
    npz("infinite activity", "holds infinite values", activity=np.full((300, 5), np.inf)),
    npz("one axis", "'counts' has shape (5,)", counts=np.ones(5)),
    npz("four axes", "'counts' has shape (2, 2, 2, 2)", counts=np.ones((2, 2, 2, 2))),
    npz("a number", "'counts' has shape ()", counts=np.array(3)),
    npz("no bins", "'counts' has shape (0, 5)", counts=COUNTS[:0]),
    npz("nothing but NaN", "a", activity=np.full((300, 5), np.nan)),
    npz("a bin of texts", "bin_width_s is", counts=COUNTS, bin_width_s=np.array("wide")),
    npz("a bin of no width", "bin_width_s is", counts=COUNTS, bin_width_s=np.array(0.0)),
    npz("a bin of NaN", "bin_width_s is", counts=COUNTS, bin_width_s=np.array(np.nan)),
    npz("no bin width in it", "bin_width_s is", counts=COUNTS, bin_width_s=np.zeros(0)),
    npz("lengths that do not add up", "adds up to 200 bins", counts=COUNTS, trial_length_bins=np.array([100, 100])),
    npz("lengths that overflow", "trial_length_bins", counts=COUNTS, trial_length_bins=np.array([2**63 - 1, 301])),
    npz("lengths of texts", "trial_length_bins", counts=COUNTS, trial_length_bins=np.array(["a"])),
    npz("lengths in a table", "trial_length_bins", counts=COUNTS, trial_length_bins=np.full((2, 2), 75)),
    npz("lengths of padded trials", "trials are shorter", counts=COUNTS[None], trial_length_bins=np.array([200])),
    npz("texts for lengths of padded trials", "trial", counts=COUNTS[None], trial_length_bins=np.array(["a"])),
    npz("time that stands still", "timestep does not ascend", counts=COUNTS, timestep=np.zeros(300, int)),
    npz("time of NaN", "timestep does not ascend", counts=COUNTS, timestep=np.full(300, np.nan)),
    npz("time of texts", "timestep does not ascend", counts=COUNTS, timestep=np.array(["a"] * 300)),
    npz("time in nanoseconds", "timestep reaches", counts=COUNTS, timestep=np.arange(300) * 10**9),
    npz("too few regions", "4 regions were given", counts=COUNTS, region=np.array(["V1"] * 4)),
    npz("regions in a table", "regions were given", counts=COUNTS, region=np.full((2, 2), "V1")),
    npz("sizes of regions that do not add up", "region_sizes is", counts=COUNTS, region_sizes=np.array([2, 2])),
    npz("units of one name", "occurs more than once", counts=COUNTS, unit_id=np.array(list("aabcd"))),
    # ---------------------------------------------------------------- Python
    python("texts", "must be numbers", np.array([["a", "b"]] * 9)),
    python("ragged lists", "activity", [[1, 2], [3]]),
    python("nothing", "activity", []),
    python("infinite", "infinite values", np.full((50, 3), np.inf)),
    python("behavior too short", "has 299 bins", COUNTS, y=np.ones(299)),
    python("a bin below zero", "bin_width_s", COUNTS, bin_width_s=-1.0),
    python("a reference", "refers to something", COUNTS, trainer={"precision": "${oc.env:LVMZOO_SECRET}"}),
    python("too few regions", "1 regions were given", COUNTS, regions=["a"]),
    python("objects", "must be numbers", np.array([[object()] * 3] * 9)),
]
