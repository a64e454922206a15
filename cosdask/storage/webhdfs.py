"""HDFS over HTTP (WebHDFS, HttpFS): the way in where a NameNode's RPC port is closed.

It also tells where blocks lie. A NameNode answers questions itself and sends readers and writers on to a DataNode;
HttpFS does all of it alone. Every request has a deadline and goes straight to its host, never through a proxy.
"""

from __future__ import annotations

import contextlib
import getpass
import http.client
import io
import json
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import IO, Any
from urllib.parse import quote, urlencode

from fsspec import AbstractFileSystem

from cosdask.storage.hadoop import http_addresses, split_url
from cosdask.storage.hdfs_errors import java_error

_SILENCE = 60.0
#: DataNodes tried for one file
_TRIES = 3
#: bytes fetched at least where a file is read from one end to the other in small pieces
_AHEAD = 1 << 20


class _Stay(urllib.request.HTTPRedirectHandler):
    """Redirects are answers here: the next host gets the data."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Never followed."""
        return


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay())


class WebHdfsClient:
    """Asks WebHDFS.

    Args:
        addresses: ``http://host:port`` of NameNodes, of which one is active, or of an HttpFS.
        user: whose rights count; default: ``HADOOP_USER_NAME``, else this process's user.
        silence: seconds that a host may be silent.
    """

    def __init__(self, addresses: Sequence[str], user: str = "", silence: float = _SILENCE) -> None:
        self.addresses, self._silence = list(addresses), silence
        self.user = user or os.environ.get("HADOOP_USER_NAME") or getpass.getuser()

    def ask(self, operation: str, path: str, method: str = "GET", **parameters: Any) -> dict[str, Any]:
        """The JSON answer of an operation.

        Raises:
            OSError: what HDFS refuses, by its kind, or no NameNode answers.
        """
        _, text = self._any(self._sending(operation, path, parameters, method))
        try:
            found: dict[str, Any] = json.loads(text) if text else {}
        except ValueError as error:
            raise OSError(f"{self.addresses[0]} does not speak WebHDFS: {text[:80]!r}") from error
        return found

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Bytes of a file."""
        return self._through("OPEN", path, {"offset": offset, "length": length}, "GET", None, {})

    def create(self, path: str, data: IO[bytes], size: int) -> None:
        """Write a whole file, over what is there."""
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        self._through("CREATE", path, {"overwrite": "true"}, "PUT", data, headers)

    def _through(
        self,
        operation: str,
        path: str,
        parameters: dict[str, Any],
        method: str,
        data: IO[bytes] | None,
        headers: dict[str, str],
    ) -> bytes:
        """What the host says that the NameNode names; a DataNode that does not answer is left out of the next try."""
        without: list[str] = []
        while True:
            more = {"excludedatanodes": ",".join(without)} if without else {}
            target, said = self._any(self._sending(operation, path, {**parameters, **more}, method))
            if not target and data is not None:
                raise OSError(f"{path}: the NameNode named no host to write to")
            if not target:
                return said
            try:
                if data is not None:
                    data.seek(0)
                return self._send(target, method, data, headers)[1]
            except (ConnectionError, TimeoutError):
                without.append(split_url(target)[1])
                if len(without) == _TRIES:
                    raise

    def _sending(
        self, operation: str, path: str, parameters: dict[str, Any], method: str
    ) -> Callable[[str], tuple[str, bytes]]:
        """What asks one NameNode."""
        query = urlencode({"op": operation, "user.name": self.user, **parameters})
        return lambda base: self._send(f"{base}/webhdfs/v1{quote(path)}?{query}", method)

    def _any(self, act: Callable[[str], tuple[str, bytes]]) -> tuple[str, bytes]:
        """What the first NameNode says that is there and active; it is asked first from then on."""
        failed: OSError | None = None
        for base in list(self.addresses):
            try:
                answer = act(base)
            except (ConnectionError, TimeoutError, _StandbyError) as error:
                failed = failed or error
                continue
            if base != self.addresses[0]:
                self.addresses = [base, *(other for other in self.addresses if other != base)]
            return answer
        assert failed is not None
        raise failed

    def _send(
        self, url: str, method: str, data: IO[bytes] | None = None, headers: dict[str, str] | None = None
    ) -> tuple[str, bytes]:
        """Where the answer sends on to ("" where it is the last word), and what it says."""
        request = urllib.request.Request(url, data, headers or {}, method=method)
        try:
            with _OPENER.open(request, timeout=self._silence) as answer:
                return "", answer.read()
        except urllib.error.HTTPError as error:
            with error:
                if error.code in (301, 302, 303, 307, 308):
                    return str(error.headers["Location"]), b""
                raise _refusal(error, url) from None
        except urllib.error.URLError as error:
            raise ConnectionError(f"{split_url(url)[1]}: {error.reason}") from error
        except http.client.HTTPException as error:
            raise ConnectionError(f"{split_url(url)[1]}: the answer broke off ({error!r})") from error


class _StandbyError(OSError):
    """A NameNode that is not the active one."""


def _refusal(error: urllib.error.HTTPError, url: str) -> OSError:
    where = split_url(url)[1]
    if error.code == 401:
        return PermissionError(
            f"{where}: WebHDFS asks for Kerberos here, which only the NameNode's RPC port can do; have it opened"
        )
    with contextlib.suppress(ValueError, KeyError, TypeError):
        told = json.loads(error.read())["RemoteException"]
        kind, said = str(told.get("javaClassName") or told["exception"]), str(told["message"])
        return _StandbyError(said) if kind.endswith("StandbyException") else java_error(kind, said)
    return OSError(f"{where}: HTTP {error.code} {error.reason}; is WebHDFS enabled (dfs.webhdfs.enabled)?")


class WebHdfs(AbstractFileSystem):
    """``webhdfs://host:port`` (``swebhdfs://`` over TLS); also ``hdfs://`` names whose RPC port is closed.

    Args:
        host: of the HTTP service, or a nameservice.
        port: its HTTP port; None: what the site files say.
        scheme: under which names are shown.
        authority: of the NameNode's RPC, as in the ``hdfs://`` names that this stands for.
    """

    protocol = ("webhdfs", "swebhdfs")
    root_marker = "/"
    #: what it renames may take the place of what is there
    replaces = True

    def __init__(
        self, host: str = "", port: int | None = None, scheme: str = "webhdfs", authority: str = "", **options: Any
    ) -> None:
        super().__init__(host=host, port=port, scheme=scheme, authority=authority, **options)
        self._shown = f"{scheme}://{authority or (f'{host}:{port}' if port else host)}"
        if authority or port is None:
            addresses = http_addresses(authority or host)
        else:
            addresses = [f"{'https' if scheme == 'swebhdfs' else 'http'}://{host}:{port}"]
        self.client = WebHdfsClient(addresses)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return split_url(path)[2].rstrip("/") or "/"

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, Any]:
        scheme, authority, _ = split_url(path)
        host, _, port = authority.rpartition(":") if ":" in authority else (authority, "", "")
        return {"host": host, "port": int(port) if port else None, "scheme": scheme}

    def unstrip_protocol(self, name: str) -> str:
        """The whole name of a path here."""
        return self._shown + self._strip_protocol(name)

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Size, kind and time of a file or folder."""
        path = self._strip_protocol(path)
        return _entry(self.client.ask("GETFILESTATUS", path)["FileStatus"], path)

    def exists(self, path: str, **_: Any) -> bool:
        """Whether it is there; a service that cannot be asked is an error."""
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """The entries of a folder; of a file itself."""
        path = self._strip_protocol(path)
        found = self.client.ask("LISTSTATUS", path)["FileStatuses"]["FileStatus"]
        inside = path.rstrip("/")
        entries = [
            _entry(status, f"{inside}/{suffix}" if (suffix := status["pathSuffix"]) else path) for status in found
        ]
        return entries if detail else [entry["name"] for entry in entries]

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        """Makes a folder and those above it."""
        self.client.ask("MKDIRS", self._strip_protocol(path), "PUT")

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """See :meth:`mkdir`."""
        if not exist_ok and self.exists(path):
            raise FileExistsError(f"{path} is already there")
        self.mkdir(path)

    def mv(self, path1: str, path2: str, overwrite: bool = False, **_: Any) -> None:
        """Renames in one step, over what is there where ``overwrite`` says so."""
        source, target = self._strip_protocol(path1), self._strip_protocol(path2)
        if self._rename(source, target, "OVERWRITE" if overwrite else "NONE"):
            return
        # HttpFS knows plain renames only, which do not replace: put the old file aside
        if not overwrite or not self.exists(target):
            raise FileExistsError(f"{source} cannot be renamed to {target}; is it already there?")
        aside = f"{source}.old"
        if not (self._rename(target, aside) and self._rename(source, target)):
            raise OSError(f"{source} cannot be renamed to {target}; what was there may be {aside}")
        self.rm(aside, recursive=True)

    def _rename(self, source: str, target: str, options: str = "") -> bool:
        """Whether it was done; with options NameNodes answer nothing, or with an error."""
        more = {"renameoptions": options} if options else {}
        return bool(self.client.ask("RENAME", source, "PUT", destination=target, **more).get("boolean", True))

    def rm(self, path: str, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Removes a file, or a folder with all that is in it; what is not there is no error."""
        self.client.ask("DELETE", self._strip_protocol(path), "DELETE", recursive=str(recursive).lower())

    def rm_file(self, path: str) -> None:
        """See :meth:`rm`."""
        self.rm(path)

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        path = self._strip_protocol(path)
        if mode == "rb":
            return _Reader(self.client, path, self.info(path))
        if mode == "wb":
            return _Writer(self.client, path)
        raise ValueError(f"WebHDFS opens files for rb and wb, not {mode}")


def _entry(status: dict[str, Any], name: str) -> dict[str, Any]:
    return {
        "name": name,
        "size": int(status["length"]),
        "type": "directory" if status["type"] == "DIRECTORY" else "file",
        "modification_time": status["modificationTime"],
        "owner": status["owner"],
        "group": status["group"],
        "permission": status["permission"],
    }


class _Reader(io.RawIOBase):
    """A file that is read: a request a range, and a little ahead where small pieces follow each other."""

    def __init__(self, client: WebHdfsClient, path: str, info: dict[str, Any]) -> None:
        if info["type"] == "directory":
            raise IsADirectoryError(f"{path} is a folder")
        self._client, self._path, self.size = client, path, int(info["size"])
        self._at = self._held_from = 0
        self._held = b""
        #: where the last request ended
        self._end = -1

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The place of the next byte."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """See ``io.IOBase``."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer, but for the file's end."""
        view = memoryview(buffer).cast("B")
        wanted = min(len(view), max(0, self.size - self._at))
        if wanted:
            view[:wanted] = self._range(self._at, wanted)
            self._at += wanted
        return wanted

    def _range(self, start: int, length: int) -> bytes:
        skip = start - self._held_from
        if skip >= 0 and skip + length <= len(self._held):
            return self._held[skip : skip + length]
        ahead = max(length, _AHEAD) if start == self._end else length
        data = self._client.read(self._path, start, min(ahead, self.size - start))
        if len(data) < length:
            raise OSError(f"{self._path}: {len(data)} bytes came of {length} from byte {start} on")
        self._held_from, self._held = start, data if len(data) <= _AHEAD else b""
        self._end = start + len(data)
        return data[:length]


class _Writer(io.RawIOBase):
    """A file that is written: collected on this machine's disk, sent when it is closed."""

    def __init__(self, client: WebHdfsClient, path: str) -> None:
        self._client, self._path = client, path
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed with this one

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, data: Any) -> int:
        """See ``io.RawIOBase``."""
        return self._file.write(data)

    def close(self) -> None:
        """Sends the file; later calls do nothing, also where the first one failed."""
        if self.closed:
            return
        super().close()
        with self._file:
            size = self._file.seek(0, os.SEEK_END)
            self._file.seek(0)
            self._client.create(self._path, self._file, size)
