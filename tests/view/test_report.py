"""The report of a run folder: one page that needs nothing else, whatever the run's names and errors hold."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path

from cosdask.events import Event, Progress, Restarted, RunEnded, RunStarted, Validation, Warned
from cosdask.storage import RunFolder, exists, read_text
from cosdask.view import write_report
from cosdask.view.charts import POINTS, Curve, chart

START = RunStarted(
    workers=2, devices_per_worker=1, batch_per_device=64, effective_batch=128, max_iter=200, rows=4000, epochs=6.4,
    base_lr=0.01, seed=7, net="<LeNet>",
    ranks=[{"rank": rank, "host": "h", "worker": str(rank), "threads": 1} for rank in (0, 1)],
)  # fmt: skip


class Page(HTMLParser):
    """The text of a page, and what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "link", "img", "iframe", "object"):
            self.loads.append(tag)
        self.loads += [name for name, _ in attrs if name in ("src", "href", "xlink:href") or name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


def run_folder(url: str, events: list[Event]) -> RunFolder:
    folder = RunFolder(url)
    folder.write_run({"config": {"conf": "a&b.prototxt", "shuffle": True}, "seed": 7, "solver": "net <x>"})
    for event in events:
        folder.append_event(event.to_dict())
    folder.close()
    folder.add_snapshot("m_iter_100.caffemodel", "m_iter_100.solverstate", 100, {"model": 5, "state": 7}, {})
    return folder


def test_a_report_holds_the_whole_run_and_loads_nothing(tmp_path: Path) -> None:
    """Curves, restarts with reasons, warnings, validations, snapshots, options; nothing comes from elsewhere."""
    steps = [
        Progress(rank=rank, iteration=i, loss=2.0 / (1 + i), lr=0.01, gradient_norm=1.5, rank_loss=0.25, memory=1 << 30)
        for i in range(0, 200, 5)
        for rank in (0, 1)
    ]
    events: list[Event] = [
        START,
        *steps[:40],
        Restarted(generation=1, reason="rank 1 <b>was ended</b> by SIGKILL", iteration=50),
        Warned(message="waiting for rows", rank=1),
        *steps[20:],
        Validation(iteration=100, outputs={"accuracy": 0.5, "per_class": [0.25, 0.75]}, rows=60),
        RunEnded(iteration=200, status="done"),
    ]
    place = write_report(run_folder(str(tmp_path / "m.run"), events))
    page = Page(Path(place).read_text())
    assert not page.loads
    assert "http" not in Path(place).read_text()
    wanted = ["<LeNet>", "done", "200 / 200", "rank 1 <b>was ended</b> by SIGKILL", "waiting for rows", "0.25, 0.75"]
    wanted += ["m_iter_100.solverstate", "a&b.prototxt", "gradient norm", "learning rate", "1,024 MiB"]
    for words in wanted:
        assert words in page.text, words


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    """Also one that made no step, on a filesystem that cannot append."""
    end = RunEnded(iteration=0, status="failed", message="SolverError: the loss of iteration 3 is nan")
    folder = run_folder("memory://report/m.run", [START, end])
    write_report(folder)
    page = Page(read_text("memory://report/m.run/report.html"))
    assert "failed" in page.text and "the loss of iteration 3 is nan" in page.text
    folder.reset()
    assert not exists("memory://report/m.run/report.html")


def test_long_curves_are_thinned_and_what_is_no_number_left_out() -> None:
    """A page stays small however long the run was; every point lies within the picture."""
    points = [(float(i), math.nan if i % 7 == 0 else 1e-3 * i) for i in range(50_000)]
    text = chart("loss", [Curve("<a>", points), Curve("b", [(5.0, math.inf)])], marks=[100.0])
    (line,) = re.findall(r'polyline points="([^"]*)"', text)
    places = [tuple(map(float, pair.split(","))) for pair in line.split()]
    assert 100 < len(places) <= POINTS + 2
    assert all(0 <= x <= 520 and 0 <= y <= 230 for x, y in places)
    assert "<a>" not in text and "nan" not in text
    for flat in ([(3.0, 0.0)], [(1.0, 5.0), (2.0, 5.0)], [(0.0, -1e-9), (1.0, 1e9)]):
        assert "polyline" in chart("x", [Curve("y", flat, dots=True)])
