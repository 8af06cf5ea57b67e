"""NWB files that reach outside, declare what they do not hold, or whose tables and clocks are wrong."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.bad_inputs.case import Case

Change = Callable[[h5py.File], Any]
SPIKES, INDEX, SPEED = "units/spike_times", "units/spike_times_index", "acquisition/speed"


@functools.cache
def good() -> Path:
    """A file of four units, ten trials and one behavior variable over 30 s."""
    from pynwb import NWBHDF5IO, NWBFile, TimeSeries

    made = NWBFile("made for a test", "good", datetime(2024, 1, 1, tzinfo=UTC))
    rng = np.random.default_rng(0)
    made.add_unit_column("location", "region")
    for unit in range(4):
        made.add_unit(spike_times=np.sort(rng.uniform(0, 30, 200)), location=f"V{1 + unit % 2}")
    made.add_trial_column("side", "of the target")
    for trial in range(10):
        made.add_trial(start_time=3.0 * trial, stop_time=3.0 * trial + 2.5, side=["left", "right"][trial % 2])
    speed = np.cumsum(rng.normal(size=1500))
    made.add_acquisition(TimeSeries(name="speed", data=speed, unit="m/s", timestamps=np.arange(1500) / 50.0))
    path = Path(tempfile.mkdtemp(prefix="lvmzoo-test-")) / "good.nwb"
    with NWBHDF5IO(str(path), "w") as io:
        io.write(made)
    return path


def changed(name: str, change: Change, says: str, code: int = 2, command: Sequence[str] = ("inspect",)) -> Case:
    """A good file that a function changes; what `lvmzoo inspect` says of it."""

    def write(folder: Path) -> list[str]:
        path = folder / "session.nwb"
        shutil.copy(good(), path)
        (folder / "secret.h5").write_bytes(b"")
        with h5py.File(path, "r+") as file:
            change(file)
        return [word.replace("FILE", str(path)) for word in (*command, *["FILE"] * (command == ("inspect",)))]

    return Case(f"nwb: {name}", write, says, code)


def made(name: str, make: Callable[[Path], Any], says: str) -> Case:
    """A path that a function fills."""

    def write(folder: Path) -> list[str]:
        make(folder / "session.nwb")
        return ["inspect", str(folder / "session.nwb")]

    return Case(f"nwb: {name}", write, says)


def replaced(place: str, values: Any, **options: Any) -> Change:
    """Put another dataset in a place; its attributes stay."""

    def change(file: h5py.File) -> None:
        attributes = dict(file[place].attrs)
        del file[place]
        dataset = file.create_dataset(place, data=values, **options)
        dataset.attrs.update(attributes)

    return change


def declared(place: str, shape: tuple[int, ...], dtype: str = "f8") -> Change:
    """Put a dataset that declares values and holds none in a place."""

    def change(file: h5py.File) -> None:
        attributes = dict(file[place].attrs) if place in file else {}
        if place in file:
            del file[place]
        chunks = (1024, *shape[1:])[: len(shape)] if shape else None
        file.create_dataset(place, shape, dtype, chunks=chunks).attrs.update(attributes)

    return change


def edit(place: str, where: Any, value: Any) -> Change:
    def change(file: h5py.File) -> None:
        file[place][where] = value

    return change


def scaled(*places: str, by: float = 1.0, add: float = 0.0) -> Change:
    def change(file: h5py.File) -> None:
        for place in places:
            file[place][:] = file[place][:] * by + add

    return change


def attribute(place: str, name: str, value: Any) -> Change:
    def change(file: h5py.File) -> None:
        file[place].attrs[name] = value

    return change


def removed(*places: str) -> Change:
    def change(file: h5py.File) -> None:
        for place in places:
            del file[place]

    return change


def linked(place: str, link: Any) -> Change:
    def change(file: h5py.File) -> None:
        if place in file:
            del file[place]
        file[place] = link

    return change


def virtual(source: str, shape: tuple[int, ...] = (5,)) -> Change:
    def change(file: h5py.File) -> None:
        layout = h5py.VirtualLayout(shape, "f8")
        layout[:5] = h5py.VirtualSource(source, "x", (5,))
        file["analysis"].create_virtual_dataset("virtual", layout)

    return change


def through_a_link(file: h5py.File) -> None:
    """A link within the file that leads through one to another file, and is looked at first."""
    file["zzz"] = h5py.ExternalLink(str(good()), "/")
    file["acquisition/x"] = h5py.SoftLink("/zzz")


def endless_virtual(file: h5py.File) -> None:
    """Two data sets, each put together from the other: HDF5 follows them until its stack is full."""
    for name, other in (("x", "y"), ("y", "x")):
        layout = h5py.VirtualLayout((5,), "f8")
        layout[:] = h5py.VirtualSource(".", f"analysis/{other}", (5,))
        file["analysis"].create_virtual_dataset(name, layout)


def hard_loop(file: h5py.File) -> None:
    file["acquisition/again"] = file["acquisition"]


def outside(file: h5py.File) -> None:
    file.create_dataset("acquisition/raw", (10,), "f8", external=[("/etc/hostname", 0, 80)])


def bomb(file: h5py.File) -> None:
    """Sixteen gigabytes in some kilobytes: chunks deflated twice."""
    space, plist = h5py.h5s.create_simple((2**31,)), h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((2**22,))
    plist.set_deflate(9)
    plist.set_deflate(9)
    found = h5py.Dataset(h5py.h5d.create(file.id, b"analysis/bomb", h5py.h5t.NATIVE_DOUBLE, space, plist))
    found[: 2**22] = 0.0


def extension(file: h5py.File) -> None:
    group = file["acquisition"].create_group("odd")
    group.attrs["namespace"], group.attrs["neurodata_type"], group.attrs["object_id"] = "ndx-nowhere", "Odd", "1"


def deep_definition(file: h5py.File) -> None:
    for version in file["specifications/core"].values():
        del version["namespace"]
        version["namespace"] = "[" * 100_000


def rate(value: float) -> Change:
    def change(file: h5py.File) -> None:
        del file[f"{SPEED}/timestamps"]
        clock = file.create_dataset(f"{SPEED}/starting_time", data=0.0)
        clock.attrs["rate"], clock.attrs["unit"] = value, "seconds"

    return change


def same_name(file: h5py.File) -> None:
    behavior = file["processing"].create_group("behavior")
    behavior.attrs.update({"namespace": "core", "neurodata_type": "ProcessingModule", "object_id": "2"})
    behavior.attrs["description"] = "a second series of that name"
    file.copy(SPEED, behavior, "speed")
    behavior["speed"].attrs["object_id"] = "3"


def text_file(path: Path) -> None:
    path.write_text("no HDF5")


def another_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(5)


def half(path: Path) -> None:
    content = good().read_bytes()
    path.write_bytes(content[: len(content) // 2])


def scrambled(path: Path) -> None:
    content = bytearray(good().read_bytes())
    content[2000:9000] = np.random.default_rng(0).bytes(7000)
    path.write_bytes(content)


TRAIN = ("train", "model=pca", "data=nwb", "data.path=FILE")

CASES = [
    # -------------------------------------------------------- outside itself
    changed(
        "link to another file", linked("acquisition/x", h5py.ExternalLink("secret.h5", "/x")), "a link to 'secret.h5'"
    ),
    changed("spikes of another file", linked(SPIKES, h5py.ExternalLink("secret.h5", "/x")), "a link to 'secret.h5'"),
    changed("a group of another file", linked("processing/x", h5py.ExternalLink("/etc/hostname", "/")), "a link to"),
    changed("another file through a link", through_a_link, "/zzz is a link to"),
    changed("stored in another file", outside, "stored in '/etc/hostname'"),
    changed("put together from another file", virtual("secret.h5"), "put together from other files"),
    changed("put together from itself", virtual(".", (10**12,)), "declares 8000 GB"),
    # ----------------------------------------------------------------- sizes
    changed("eight terabytes", declared("analysis/huge", (10**12,)), "declares 8000 GB in /analysis/huge"),
    changed("eight terabytes of spikes", declared(SPIKES, (10**12,)), "declares 8000 GB in /units/spike_times"),
    changed(
        "eight terabytes of behavior", declared(f"{SPEED}/data", (10**12,)), "declares 8000 GB in /acquisition/speed"
    ),
    changed("a trillion units", declared("units/id", (10**12,), "i4"), "declares 4000 GB in /units/id"),
    changed("a text of two gigabytes", declared("general/notes", (), "S2000000000"), "declares 2 GB in /general/notes"),
    changed("a compressed bomb", bomb, "declares 17 GB in /analysis/bomb"),
    # ----------------------------------------------------------------- loops
    changed(
        "a link to itself", linked("acquisition/x", h5py.SoftLink("/acquisition/x")), "contains itself: /acquisition/x"
    ),
    changed(
        "two links to each other",
        lambda file: [
            linked("acquisition/x", h5py.SoftLink("/acquisition/y"))(file),
            linked("acquisition/y", h5py.SoftLink("/acquisition/x"))(file),
        ],
        "contains itself: /acquisition/x",
    ),
    changed(
        "a link to nothing", linked("acquisition/x", h5py.SoftLink("/nowhere")), "is a link to nothing (/nowhere)", 0
    ),
    changed("a link to all of it", linked("acquisition/x", h5py.SoftLink("/")), "contains itself"),
    changed("a group within itself", hard_loop, "contains itself"),
    changed("put together from each other", endless_virtual, "contains itself: /analysis/x"),
    # ---------------------------------------------------------- no NWB files
    made("text", text_file, "is not an HDF5 file"),
    made("nothing in it", lambda path: path.touch(), "is not an HDF5 file (0 bytes)"),
    made("HDF5 and not NWB", another_hdf5, "could not be read as NWB"),
    made("half of it", half, "is damaged"),
    made("bytes of chance", scrambled, "session.nwb"),
    made("a folder", lambda path: path.mkdir(), "is a folder"),
    made("a pipe", os.mkfifo, "is not a regular file"),
    made("a device", lambda path: path.symlink_to("/dev/zero"), "is not a regular file"),
    made("a path that leads nowhere", lambda path: path.symlink_to("nowhere"), "cannot be opened"),
    changed("an unknown extension", extension, "'ndx-nowhere' not a namespace"),
    changed("definitions that are none", deep_definition, "could not be read as NWB"),
    changed(
        "no definitions, an unknown type",
        lambda file: [removed("specifications")(file), extension(file)],
        "left out, because nothing defines its type: ndx-nowhere (Odd)",
        0,
    ),
    # ---------------------------------------------------------------- spikes
    changed("an index that goes back", edit(INDEX, 1, 5), "are corrupt: the index of 'spike_times'"),
    changed("an index that ends early", edit(INDEX, 3, 700), "are corrupt: the index of 'spike_times'"),
    changed("an index beyond the end", edit(INDEX, 3, 900), "are corrupt: the index of 'spike_times'"),
    changed(
        "an index of another length",
        replaced(INDEX, np.array([200, 400, 800], "u2")),
        "units: Columns must be the same length",
    ),
    changed("an index below zero", replaced(INDEX, np.array([-5, 400, 600, 800])), "are corrupt"),
    changed("an index of texts", replaced(INDEX, ["a", "b", "c", "d"]), "session.nwb"),
    changed("spikes that are texts", replaced(SPIKES, ["a"] * 800), "spike_times"),
    changed("spikes in two columns", replaced(SPIKES, np.zeros((800, 2))), "spike_times"),
    changed(
        "no spikes", lambda file: [replaced(SPIKES, np.zeros(0))(file), edit(INDEX, slice(None), 0)(file)], "no spike"
    ),
    changed("no spike times", removed(SPIKES, INDEX), "spike_times"),
    changed("spike times without an index", removed(INDEX), "units: Columns must be the same length"),
    changed("all spikes NaN", edit(SPIKES, slice(None), np.nan), "no spike"),
    changed("some spikes NaN", edit(SPIKES, slice(0, 3), np.nan), "3 spike times are NaN or infinite", 0),
    changed("an infinite spike", edit(SPIKES, 7, np.inf), "1 spike times are NaN or infinite", 0),
    changed("spikes not in order", edit(SPIKES, 0, 20.0), "the spike times of 1 units are not sorted", 0),
    changed("spikes before the beginning", edit(SPIKES, 0, -3.0), "spikes begin at -3 s", 0),
    changed("spikes in nanoseconds", scaled(SPIKES, by=1e9), "it is on another clock", 0),
    changed("units of one id", edit("units/id", slice(None), 1), "unit ids repeat", 0),
    changed(
        "regions of too few units", replaced("units/location", ["V1", "V2"]), "units: Columns must be the same length"
    ),
    # ---------------------------------------------------------------- trials
    changed("trials without an end", removed("intervals/trials/stop_time"), "stop_time"),
    changed("trials without a beginning", removed("intervals/trials/start_time"), "start_time"),
    changed("trials of texts", replaced("intervals/trials/start_time", ["a"] * 10), "start_time"),
    changed(
        "trials on another clock",
        scaled("intervals/trials/start_time", "intervals/trials/stop_time", add=1e6),
        "10 of 10 trials lie outside the activity (0.00902",
        0,
    ),
    changed(
        "trials in milliseconds",
        scaled("intervals/trials/start_time", "intervals/trials/stop_time", by=1e3),
        "9 of 10 trials lie outside the activity (0.00902",
        0,
    ),
    changed(
        "trials on another clock, in a run",
        scaled("intervals/trials/start_time", "intervals/trials/stop_time", add=1e6),
        "No trial of session 'session' holds a bin",
        command=TRAIN,
    ),
    changed("all trials NaN", edit("intervals/trials/stop_time", slice(None), np.nan), "No trial", command=TRAIN),
    changed(
        "trials that end before they begin", scaled("intervals/trials/stop_time", add=-100.0), "No trial", command=TRAIN
    ),
    changed(
        "a trial too few in a column",
        replaced("intervals/trials/stop_time", np.arange(9.0)),
        "intervals/trials: Columns must",
    ),
    # -------------------------------------------------------------- behavior
    changed("behavior on another clock", scaled(f"{SPEED}/timestamps", add=1e5), "it is on another clock", 0),
    changed(
        "behavior in milliseconds",
        scaled(f"{SPEED}/timestamps", by=1e3),
        "only 0.1% of it is used. Are its times in seconds?",
        0,
    ),
    changed(
        "behavior too short",
        lambda file: [
            replaced(f"{SPEED}/{name}", file[f"{SPEED}/{name}"][:150])(file) for name in ("data", "timestamps")
        ],
        "Behavior known in 17% of the training bins: speed",
        0,
    ),
    changed(
        "behavior offset",
        scaled(f"{SPEED}/timestamps", add=20.0),
        "because it has no value in the training data: speed",
        0,
    ),
    changed("behavior without some timestamps", edit(f"{SPEED}/timestamps", slice(5), np.nan), "timestamps are NaN", 0),
    changed(
        "behavior without any timestamps",
        edit(f"{SPEED}/timestamps", slice(None), np.nan),
        "has no timestamp that is a number",
        0,
    ),
    changed("behavior back in time", edit(f"{SPEED}/timestamps", 5, 0.0), "go back in time", 0),
    changed("fewer timestamps than samples", replaced(f"{SPEED}/timestamps", np.arange(9.0)), "1500 samples and 9", 0),
    changed(
        "timestamps in two columns",
        replaced(f"{SPEED}/timestamps", np.zeros((1500, 2))),
        "acquisition/speed: TimeSeries.__init__: incorrect shape",
    ),
    changed(
        "neither rate nor timestamps",
        removed(f"{SPEED}/timestamps"),
        "acquisition/speed: either 'timestamps' or 'rate'",
    ),
    changed("a rate of zero", rate(0.0), "its rate is 0", 0),
    changed("a rate below zero", rate(-50.0), "its rate is -50", 0),
    changed("a rate of NaN", rate(np.nan), "its rate is nan", 0),
    changed("an infinite conversion", attribute(f"{SPEED}/data", "conversion", np.inf), "has the conversion inf", 0),
    changed("a conversion of NaN", attribute(f"{SPEED}/data", "conversion", np.nan), "has the conversion nan", 0),
    changed("two series of one name", same_name, "that of behavior is called 'behavior_speed'", 0),
]
