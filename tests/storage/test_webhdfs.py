"""HDFS over HTTP: what standby NameNodes, dead DataNodes and HttpFS answer, played by a small server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from cosdask.errors import StorageError
from cosdask.storage import atomic_write, read_bytes
from cosdask.storage.webhdfs import WebHdfsClient


class _Server(ThreadingHTTPServer):
    """Files in a dictionary, behind the answers of HttpFS or of a NameNode."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.standby = self.unknown_user = False
        #: where readers are sent first
        self.dead = ""

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        path, files = parts.path.removeprefix("/webhdfs/v1"), self.server.files
        self.server.asked.append((query["op"], query))
        if self.server.standby:
            return self._say(403, {"RemoteException": {"exception": "StandbyException", "message": "standby"}})
        if self.server.unknown_user:
            return self._say(401, {})
        match query["op"]:
            case "MKDIRS":
                return self._say(200, {"boolean": True})
            case "CREATE" if "data" not in query:
                return self._send_on(f"http://{self.server.url}{self.path}&data=true")
            case "CREATE":
                files[path] = self.rfile.read(int(self.headers["Content-Length"]))
                return self._say(201, None)
            case "RENAME":
                there = query["destination"] in files or path not in files
                if not there:
                    files[query["destination"]] = files.pop(path)
                return self._say(200, {"boolean": not there})
            case "DELETE":
                return self._say(200, {"boolean": files.pop(path, None) is not None})
        if path not in files:
            return self._say(404, {"RemoteException": {"exception": "FileNotFoundException", "message": "File gone"}})
        if query["op"] == "OPEN":
            if self.server.dead and "excludedatanodes" not in query:
                return self._send_on(f"http://{self.server.dead}/webhdfs/v1{path}?op=OPEN")
            start = int(query["offset"])
            return self._say(200, files[path][start : start + int(query["length"])])
        status = {"length": len(files[path]), "type": "FILE", "modificationTime": 1, "owner": "", "group": ""}
        return self._say(200, {"FileStatus": {**status, "permission": "644", "pathSuffix": ""}})

    do_GET = do_PUT = do_DELETE = _answer

    def _send_on(self, location: str) -> None:
        self.send_response(307)
        self.send_header("Location", location)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _say(self, code: int, what: dict[str, Any] | bytes | None) -> None:
        body = what if isinstance(what, bytes) else b"" if what is None else json.dumps(what).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join(10)


def test_httpfs_replaces_a_file_though_its_renames_do_not(server: _Server) -> None:
    """HttpFS knows no overwriting rename: the old file is put aside; nothing but the new one is left (invariant 7)."""
    url = f"webhdfs://{server.url}/out/model"
    for content in (b"one", b"two"):
        atomic_write(url, content)
        assert server.files == {"/out/model": content} and read_bytes(url) == content
    with pytest.raises(StorageError, match="already there"):
        atomic_write(url, b"three", replace=False)
    assert server.files == {"/out/model": b"two"}


def test_a_dead_datanode_is_left_out_of_the_next_try(server: _Server) -> None:
    """A NameNode may send readers to a DataNode that has just died."""
    server.files["/rows"], server.dead = b"0123456789", "127.0.0.1:9"
    assert WebHdfsClient([f"http://{server.url}"]).read("/rows", 2, 3) == b"234"
    assert server.asked[-1][1]["excludedatanodes"] == "127.0.0.1:9"


def test_the_active_namenode_is_found_and_kept(server: _Server) -> None:
    """One is down, one stands by: the third answers, and is asked first from then on."""
    with _Server() as standby:
        standby.standby = True
        thread = threading.Thread(target=standby.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        server.files["/rows"] = b"0123"
        client = WebHdfsClient(["http://127.0.0.1:9", f"http://{standby.url}", f"http://{server.url}"], user="me")
        assert client.ask("GETFILESTATUS", "/rows")["FileStatus"]["length"] == 4
        assert client.read("/rows", 0, 4) == b"0123"
        standby.shutdown()
        thread.join(10)
        assert len(standby.asked) == 1 and server.asked[0][1]["user.name"] == "me"


def test_refusals_are_plain_errors(server: _Server) -> None:
    """A missing file, and a cluster that asks for Kerberos."""
    with pytest.raises(StorageError, match="no such file"):
        read_bytes(f"webhdfs://{server.url}/gone")
    server.unknown_user = True
    with pytest.raises(StorageError, match="asks for Kerberos"):
        read_bytes(f"webhdfs://{server.url}/gone")
