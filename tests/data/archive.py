"""A DANDI archive of one dandiset on this machine, whose connections break on demand."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TIME = "2024-01-01T00:00:00Z"
VERSION = {
    "version": "draft", "name": "Test", "asset_count": 1, "size": 1, "created": TIME, "modified": TIME,
    "status": "Valid", "active_uploads": 0,
}  # fmt: skip


@dataclass
class Archive:
    """What it holds, how it fails, and what was asked of it."""

    files: dict[str, bytes]  # path -> content
    breaks: list[int] = field(default_factory=list)  # bytes after which each next download breaks off
    refusals: list[int] = field(default_factory=list)  # status of each next download, in place of the file
    sums: dict[str, str] = field(default_factory=dict)  # path -> SHA-256 that is said in place of the right one
    ranges: list[str | None] = field(default_factory=list)  # the Range of each download
    url: str = ""

    def answer(self, path: str, query: dict[str, list[str]]) -> Any:
        """Return what the API says as JSON, or None."""
        if path == "/api/info/":
            api = {"url": f"{self.url}/api"}
            return {
                "schema_version": "0.6.8", "version": "0.3", "services": {"api": api},
                "cli-minimal-version": "0.60.0", "cli-bad-versions": [],
            }  # fmt: skip
        if path == "/api/dandisets/000123/":
            return {
                "identifier": "000123", "created": TIME, "modified": TIME, "contact_person": "Doe, Jane",
                "embargo_status": "OPEN", "most_recent_published_version": None, "draft_version": VERSION,
            }  # fmt: skip
        assets = "/api/dandisets/000123/versions/draft/assets/"
        if path == assets:
            start = query.get("path", [""])[0]
            results = [
                {
                    "asset_id": str(number), "path": name, "size": len(content), "created": TIME, "modified": TIME,
                    "blob": None if name.endswith(".zarr") else "x", "zarr": "x" if name.endswith(".zarr") else None,
                }
                for number, (name, content) in enumerate(self.files.items())
                if name.startswith(start)
            ]  # fmt: skip
            return {"count": len(results), "next": None, "previous": None, "results": results}
        if found := re.fullmatch(rf"{assets}(\d+)/", path):
            name = list(self.files)[int(found[1])]
            right = hashlib.sha256(self.files[name]).hexdigest()
            return {"path": name, "digest": {"dandi:sha2-256": self.sums.get(name, right)}}
        return None


@contextmanager
def served(archive: Archive) -> Iterator[Archive]:
    """Serve an archive at ``archive.url``."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            address = urlsplit(self.path)
            if found := re.fullmatch(r"/api/assets/(\d+)/download/", address.path):
                return self.send_file(list(archive.files.values())[int(found[1])])
            said = archive.answer(address.path, parse_qs(address.query))
            content = json.dumps(said or {"detail": "Not found."}).encode()
            self.send_response(200 if said is not None else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def send_file(self, content: bytes) -> None:
            asked = self.headers.get("Range")
            archive.ranges.append(asked)
            if archive.refusals:
                self.send_response(archive.refusals.pop(0))
                self.send_header("Content-Length", "0")
                return self.end_headers()
            first = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(len(content) - first))
            self.end_headers()
            last = first + archive.breaks.pop(0) if archive.breaks else len(content)
            self.wfile.write(content[first:last])
            if last < len(content):
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    archive.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield archive
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
