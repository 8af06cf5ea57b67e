"""Downloads from an archive on this machine, by the client that asks the real one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lvmzoo.cli import main
from lvmzoo.data import download as downloads
from lvmzoo.data.download import Remote, download
from lvmzoo.errors import UserError

from .archive import Archive, served

CONTENT = np.random.default_rng(0).bytes(3_000_000)
FIRST, SECOND = "sub-1/sub-1_ses-1.nwb", "sub-10/sub-10_ses-1.nwb"


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    pytest.importorskip("dandi")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(downloads, "WAIT_S", 0.0)
    files = {FIRST: CONTENT, SECOND: CONTENT[:1000], "sub-1/video.mp4": b"x", "sub-1/big.nwb.zarr": b""}
    with served(Archive(files)) as found:
        monkeypatch.setenv("DANDI_INSTANCE", found.url)
        yield found


def test_a_dandiset_is_downloaded_whole(archive: Archive, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "get", "dandi:000123"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [f"000123/{FIRST}", f"000123/{SECOND}"]
    assert "2 NWB files, 3 MB" in printed.err
    assert "2 other files left out" in printed.err
    assert Path("000123", FIRST).read_bytes() == CONTENT
    assert Path("000123", SECOND).read_bytes() == CONTENT[:1000]
    assert not list(Path().rglob("*.part"))
    asked = len(archive.ranges)
    assert main(["data", "get", "dandi:000123"]) == 0
    assert capsys.readouterr().out.count("was there already") == 2
    assert len(archive.ranges) == asked, "what is there is not downloaded again"


@pytest.mark.parametrize(
    ("name", "files"),
    [
        (f"dandi:000123/{FIRST}", [FIRST]),
        ("DANDI:000123/sub-1", [FIRST]),  # not sub-10
        ("dandi:000123@draft/sub-10/", [SECOND]),
        ("dandi:000123/draft", [FIRST, SECOND]),
    ],
)
def test_a_path_names_a_file_or_a_folder(
    archive: Archive, name: str, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("there").mkdir()
    assert main(["data", "get", name, "--out", "there"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"there/000123/{file}" for file in files]


def test_a_broken_connection_is_resumed_where_it_was(archive: Archive) -> None:
    archive.breaks = [1_000_000, 0, 500_000]
    assert main(["data", "get", f"dandi:000123/{FIRST}"]) == 0
    assert Path("000123", FIRST).read_bytes() == CONTENT
    begun = [0 if asked is None else int(asked[len("bytes=") : -1]) for asked in archive.ranges]
    assert begun[0] == 0
    assert begun == sorted(begun)
    assert begun[-1] > 0


def test_the_next_command_goes_on_where_the_last_one_stopped(
    archive: Archive, capsys: pytest.CaptureFixture[str]
) -> None:
    archive.breaks = [2_500_000] + [0] * downloads.ATTEMPTS
    assert main(["data", "get", f"dandi:000123/{FIRST}"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()[-3:]
    assert "broke off after" in lines[0]
    assert "goes on where it was" in lines[2]
    part = Path("000123", f"{FIRST}.part")
    kept = part.stat().st_size
    assert 0 < kept <= 2_500_000
    assert CONTENT.startswith(part.read_bytes())
    assert not Path("000123", FIRST).exists()
    archive.ranges.clear()
    assert main(["data", "get", f"dandi:000123/{FIRST}"]) == 0
    assert archive.ranges == [f"bytes={kept}-"]
    assert Path("000123", FIRST).read_bytes() == CONTENT
    assert not part.exists()


def test_a_part_of_other_content_is_begun_anew(archive: Archive) -> None:
    part = Path("000123", f"{FIRST}.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"an older version of the file")
    assert main(["data", "get", f"dandi:000123/{FIRST}"]) == 0
    assert archive.ranges == ["bytes=28-", None]
    assert Path("000123", FIRST).read_bytes() == CONTENT


def test_wrong_content_is_never_kept(archive: Archive, capsys: pytest.CaptureFixture[str]) -> None:
    archive.sums[FIRST] = "0" * 64
    assert main(["data", "get", f"dandi:000123/{FIRST}"]) == 2
    assert "wrong checksum" in capsys.readouterr().err
    assert not [path for path in Path().rglob("*") if path.is_file()]


def test_another_file_in_the_way_is_left_alone(archive: Archive, capsys: pytest.CaptureFixture[str]) -> None:
    Path("000123", "sub-1").mkdir(parents=True)
    Path("000123", FIRST).write_text("precious")
    assert main(["data", "get", "dandi:000123"]) == 2
    assert "exists already and is another file" in capsys.readouterr().err
    assert Path("000123", FIRST).read_text() == "precious"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dandi:123"], "six digits"),
        (["000123"], "six digits"),
        (["dandi:000999"], "There is no dandiset 000999"),
        (["dandi:000123/sub-2"], "nothing there"),
        (["dandi:000123/sub-1/video.mp4"], "none of them an NWB file"),
        (["dandi:000123", "--out", "nowhere"], "mkdir -p nowhere"),
    ],
)
def test_a_wrong_name_is_explained(
    archive: Archive, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "get", *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 3
    assert said in "\n".join(lines)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("../../sub-1.nwb", "outside the folder"),
        ("sub/../../sub-1.nwb", "outside the folder"),
        ("/sub-1.nwb", "outside the folder"),
        ("..\\sub-1.nwb", "outside the folder"),
        ("sub\x00.nwb", "'sub\\x00.nwb'"),
        ("\x1b[2Jsub.nwb", "'\\x1b[2Jsub.nwb'"),
        ("sub\n1.nwb", "characters that control a terminal"),
        ("sub\udce9.nwb", "none that a file can have"),
    ],
)
def test_a_file_outside_the_folder_or_of_no_printable_name_is_refused(
    archive: Archive, path: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    archive.files = {path: b"x"}
    assert main(["data", "get", "dandi:000123"]) == 2
    assert said in capsys.readouterr().err
    assert not list(Path().iterdir())


def test_a_file_that_is_listed_and_not_given_is_said_at_once_and_a_busy_server_is_asked_again(
    archive: Archive, capsys: pytest.CaptureFixture[str]
) -> None:
    archive.refusals = [404]
    assert main(["data", "get", "dandi:000123"]) == 2
    assert f"'000123/{FIRST}' cannot be downloaded: the server answers 404" in capsys.readouterr().err
    assert len(archive.ranges) == 1
    archive.refusals = [503, 503]
    assert main(["data", "get", "dandi:000123"]) == 0
    assert Path("000123", FIRST).read_bytes() == CONTENT


def test_names_with_spaces_are_quoted_in_what_to_do_next(archive: Archive, capsys: pytest.CaptureFixture[str]) -> None:
    archive.files = {"sub é/-a b.nwb": b"x"}
    assert main(["data", "get", "dandi:000123"]) == 0
    assert "lvmzoo inspect '000123/sub é/-a b.nwb'" in capsys.readouterr().err


def test_a_disk_that_is_too_small_is_said_before(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1_000_000}))
    assert main(["data", "get", "dandi:000123"]) == 2
    assert "1 MB left" in capsys.readouterr().err
    assert not archive.ranges


def test_no_network_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("dandi")
    monkeypatch.setattr("requests.Session.request", _no_network)
    assert main(["data", "get", "dandi:000123", "--out", str(tmp_path)]) == 2
    assert "cannot be reached" in capsys.readouterr().err


def test_without_the_client_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "dandi"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("importlib.import_module", _no_module)
    assert main(["data", "get", "dandi:000123"]) == 2
    assert "pip install 'lvmzoo[data]'" in capsys.readouterr().err


def test_an_interrupted_download_keeps_what_has_come(tmp_path: Path) -> None:
    def read(start: int) -> Iterator[bytes]:
        yield CONTENT[start : start + 1000]
        raise KeyboardInterrupt

    remote = Remote("a.nwb", len(CONTENT), read, lambda path: path.read_bytes() == CONTENT)
    with pytest.raises(KeyboardInterrupt):
        download(remote, tmp_path, lambda _: None)
    assert (tmp_path / "a.nwb.part").read_bytes() == CONTENT[:1000]


def test_a_folder_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / "sub").write_text("a file where a folder would be")
    remote = Remote("sub/a.nwb", 4, lambda start: iter([b"data"[start:]]), lambda _: True)
    with pytest.raises(UserError, match="cannot be written"):
        download(remote, tmp_path, lambda _: None)


def _no_network(*_: object, **__: object) -> None:
    import requests

    raise requests.ConnectionError


def _no_module(name: str) -> None:
    raise ModuleNotFoundError(name="dandi")
