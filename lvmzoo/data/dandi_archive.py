"""Files of the DANDI archive, found by its client (extra ``data``)."""

from __future__ import annotations

import functools
import hashlib
import importlib
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from lvmzoo.data.download import Remote
from lvmzoo.errors import UserError

__all__ = ["dandi_files"]

NAME = re.compile(
    r"dandi:(?P<id>\d{6})(?:[@/](?P<version>draft|\d+\.\d+\.\d+))?(?:/(?P<path>.*))?", re.IGNORECASE
)  # with "/" before the version, as in citations, or "@", as the client writes it
CHUNK = 2**16  # bytes; what came of a chunk is lost where the connection breaks


@contextmanager
def dandi_files(name: str) -> Iterator[tuple[list[Remote], int]]:
    """Give the NWB files that a name stands for, and how many other files are left out, while the connection is open.

    Paths begin with the id of the dandiset. The environment variable ``DANDI_INSTANCE`` chooses another archive, as it
    does for the client itself.

    Raises
    ------
    UserError
        If the name is no ``dandi:ID[@VERSION][/PATH]``, the client is not installed, the archive cannot be reached, or
        it holds no such file.
    """
    found = NAME.fullmatch(name.strip())
    if found is None:
        raise UserError(
            f"'{name}' does not name a recording of the DANDI archive.",
            "A name is dandi: and the six digits of the dandiset, with a version and a path if need be.",
            "Write dandi:000128, dandi:000128/sub-Jenkins or dandi:000128@0.220113.0400/sub-Jenkins.",
        )
    path = (found["path"] or "").strip("/")
    with _explained(found["id"]), _client() as client:
        dandiset = client.get_dandiset(found["id"], found["version"], lazy=False)
        assets = dandiset.get_assets_with_path_prefix(path) if path else dandiset.get_assets()
        assets = [asset for asset in assets if not path or f"{asset.path}/".startswith(f"{path}/")]
        files = [
            _remote(found["id"], asset) for asset in assets if asset.path.lower().endswith(".nwb") and _is_blob(asset)
        ]
        if not files:
            what = (
                f"{len(assets)} file{'s' * (len(assets) != 1)}, none of them" if assets else "nothing there, let alone"
            )
            raise UserError(
                f"'{name}' holds {what} an NWB file.",
                "lvmzoo reads files that end in .nwb; a path is that of a file or a folder.",
                f"Look at the files of the dandiset: https://dandiarchive.org/dandiset/{found['id']}",
            )
        yield files, len(assets) - len(files)


def _client() -> Any:
    """Return the client of the archive, which says nothing by itself."""
    os.environ.setdefault("DANDI_NO_ET", "1")  # it would ask another server for newer versions of itself, first
    try:
        api: Any = importlib.import_module("dandi.dandiapi")
    except ModuleNotFoundError as error:
        if error.name != "dandi":
            raise
        raise UserError(
            "The client of the DANDI archive is not installed.",
            "lvmzoo finds files of the archive through it.",
            "Install it: pip install 'lvmzoo[data]'.",
        ) from error
    logging.getLogger("dandi").setLevel(logging.CRITICAL)  # errors are explained here
    client = api.DandiAPIClient()
    client.session.get(client.get_url("/info/"), timeout=15)  # fails at once; the client would try for a minute
    return client


@contextmanager
def _explained(dandiset: str) -> Iterator[None]:
    """Turn errors of the client into those of a user."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if type(error).__name__ in ("NotFoundError", "HTTP404Error"):
            raise UserError(
                f"There is no dandiset {dandiset}, or not this version of it.",
                f"The archive says: {str(error).splitlines()[0][:200]}",
                "Look it up at https://dandiarchive.org and write dandi:ID or dandi:ID@VERSION.",
            ) from error
        if status in (401, 403):
            raise UserError(
                f"The dandiset {dandiset} is not public.",
                "The archive gives embargoed data to their owners alone.",
                f"Use its own client, which knows your key: dandi download DANDI:{dandiset}",
            ) from error
        if isinstance(error, OSError):
            raise UserError(
                f"The DANDI archive cannot be reached: {type(error).__name__}.",
                "Its files are found over the network.",
                "Check the network and try again; what was downloaded is kept.",
            ) from error
        raise


def _is_blob(asset: Any) -> bool:
    return str(asset.asset_type.name) == "BLOB"


def _remote(dandiset: str, asset: Any) -> Remote:
    path = PurePosixPath(dandiset, asset.path)
    if not asset.path.isprintable():
        raise UserError(
            f"The dandiset {dandiset} names a file {asset.path!a}.",
            "Its name holds characters that control a terminal, or none that a file can have.",
            "Do not download it, and report it to the archive.",
        )
    if ".." in path.parts or PurePosixPath(asset.path).is_absolute() or "\\" in asset.path:
        raise UserError(
            f"The dandiset {dandiset} names a file '{asset.path}'.",
            "It would be written outside the folder of the download.",
            "Do not download it, and report it to the archive.",
        )
    return Remote(str(path), int(asset.size), asset.get_download_file_iter(CHUNK), functools.partial(_is_whole, asset))


def _is_whole(asset: Any, path: Path) -> bool:
    """Compare the SHA-256 of a file with what the archive says, or the checksum of its parts where it has no other."""
    digests = asset.get_raw_metadata().get("digest", {})
    if expected := digests.get("dandi:sha2-256"):
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == str(expected)
    from dandi.support.digests import get_digest

    return bool(get_digest(path, "dandi-etag") == asset.get_digest().value)
