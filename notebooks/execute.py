"""Runs the notebooks from top to bottom: ``python notebooks/execute.py`` stores them again with their outputs.

The tests run them by the same function, in an empty folder each.
"""

from __future__ import annotations

import argparse
import getpass
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent
#: Seconds that a cell may take.
DEADLINE = 500
#: What belongs to one machine or one moment: object addresses, ports, and what Dask logs about slow ends.
_MOMENT = re.compile(
    r" at 0x[0-9a-f]{6,}|(?<=127\.0\.0\.1:)\d+|^\d{4}-\d\d-\d\d [\d:,]+ - distributed\..*\n?", re.MULTILINE
)


def names() -> list[str]:
    """The notebooks' names, without ``.ipynb``."""
    return sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def execute(name: str, folder: Path, deadline: int = DEADLINE) -> Any:
    """Run a notebook in a folder, as somebody would who started Jupyter there.

    Args:
        name: of the notebook, without ``.ipynb``.
        folder: its working directory.
        deadline: seconds that a cell may take.

    Returns:
        The notebook with its new outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised.
        nbclient.exceptions.CellTimeoutError: a cell took too long.
    """
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    client = NotebookClient(
        notebook,
        timeout=deadline,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        store_widget_state=False,
    )
    paths = [str(FOLDER.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    environment.pop("MPLBACKEND", None)
    # as in a shell whose environment is activated: cells that run commands find them
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)])
    client.execute(env=environment)
    return _tidied(notebook, folder)


def outputs(notebook: Any, kinds: Sequence[str] = ("text/plain", "text/html")) -> str:
    """All text that the cells put out, those of one cell after the other's."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            found.append(output.get("text", ""))
            found += [text for kind, text in output.get("data", {}).items() if kind in kinds]
    return "\n".join(found)


def pictures(notebook: Any) -> list[str]:
    """The PNGs that cells put out, in base64."""
    every = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output["data"]["image/png"] for output in every if "image/png" in output.get("data", {})]


def _tidied(notebook: Any, folder: Path) -> Any:
    """Without what differs from machine to machine and tells a reader nothing."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "text" in output:
                output["text"] = _plain(output["text"], folder)
            for kind, text in output.get("data", {}).items():
                if kind.startswith("text/"):
                    output["data"][kind] = _plain(text, folder)
        if "outputs" in cell:
            cell.outputs = _joined([output for output in cell.outputs if output.get("text", "-")])
    notebook.metadata.pop("widgets", None)
    notebook.metadata.language_info = {"name": "python"}
    return notebook


def _joined(found: Sequence[Any]) -> list[Any]:
    """Texts of one stream that follow each other as one."""
    joined: list[Any] = []
    for output in found:
        if joined and output.get("name") and output.get("name") == joined[-1].get("name"):
            joined[-1]["text"] += output["text"]
        else:
            joined.append(output)
    return joined


def _plain(text: str, folder: Path) -> str:
    for name in {str(folder), str(folder.resolve())}:
        text = text.replace(f"{name}/", "").replace(name, ".")
    # the folder in HDFS of whoever ran it
    text = text.replace(f"/user/{os.environ.get('HADOOP_USER_NAME') or getpass.getuser()}/", "/user/me/")
    return _MOMENT.sub("", text)


def main(words: Sequence[str] | None = None) -> int:
    """Execute the notebooks named (all of them without names) and write them back with their outputs."""
    flags = argparse.ArgumentParser(description=main.__doc__)
    flags.add_argument("name", nargs="*", help="without .ipynb")
    for name in flags.parse_args(words).name or names():
        with tempfile.TemporaryDirectory() as folder:
            notebook = execute(name, Path(folder))
        nbformat.write(notebook, FOLDER / f"{name}.ipynb")
        print(f"{name}: executed and stored", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
