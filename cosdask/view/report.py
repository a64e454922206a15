"""``report.html`` of a run folder: one page that says what a run was, how it went, and what came out of it.

It is made of the run folder alone and loads nothing from elsewhere: it can be mailed, and read where no network is.
"""

from __future__ import annotations

import html
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cosdask.config import OPTIONS, default_of
from cosdask.events import (
    Event,
    Progress,
    Restarted,
    RunEnded,
    RunStarted,
    Validation,
    Warned,
    from_dict,
    thin_out,
)
from cosdask.storage import RunFolder, atomic_write, join
from cosdask.view.caffe_lines import describe_run
from cosdask.view.charts import Curve, chart

NAME = "report.html"
#: curves are thinned out beyond this many iterations, and lists of warnings cut
_ROWS = 20_000
_LISTED = 100

_STYLE = """
:root { --ink:#1f2937; --soft:#6b7280; --line:#e5e7eb; --card:#ffffff; --page:#f6f7f9; }
@media (prefers-color-scheme: dark) {
  :root { --ink:#e5e7eb; --soft:#9ca3af; --line:#374151; --card:#1f2530; --page:#14181f; } }
* { box-sizing:border-box } body { margin:0; background:var(--page); color:var(--ink);
  font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif }
main { max-width:1120px; margin:0 auto; padding:28px 20px 60px }
h1 { font-size:24px; margin:0 } h2 { font-size:17px; margin:34px 0 10px } p { margin:6px 0 }
.soft { color:var(--soft) } .path { overflow-wrap:anywhere }
.badge { display:inline-block; padding:1px 10px; border-radius:10px; font-size:13px; font-weight:600; color:#fff;
  margin-left:10px; vertical-align:3px; background:#6b7280 }
.done { background:#059669 } .stopped { background:#d97706 } .failed { background:#dc2626 }
.cards { display:grid; grid-template-columns:repeat(auto-fill,minmax(150px,1fr)); gap:12px; margin:20px 0 }
.card, figure, .table { background:var(--card); border:1px solid var(--line); border-radius:8px }
.card { padding:10px 14px } .card b { display:block; font-size:18px; font-weight:600 }
.card span { color:var(--soft); font-size:13px }
.charts { display:grid; grid-template-columns:repeat(auto-fill,minmax(430px,1fr)); gap:14px }
figure { margin:0; padding:8px 8px 4px } svg { width:100%; height:auto; display:block }
svg .title { font-size:13px; font-weight:600; fill:var(--ink) } svg .tick { font-size:11px; fill:var(--soft) }
svg .grid { stroke:var(--line) } svg .mark { stroke:#dc2626; stroke-dasharray:4 3; opacity:.7 }
.table { overflow-x:auto } table { border-collapse:collapse; width:100%; font-size:14px }
th,td { text-align:left; padding:5px 12px; border-top:1px solid var(--line); vertical-align:top }
tr:first-child > * { border-top:0 } th { color:var(--soft); font-weight:600; white-space:nowrap }
td.n,th.n { text-align:right; font-variant-numeric:tabular-nums; white-space:nowrap } td { overflow-wrap:anywhere }
.error { border-left:4px solid #dc2626; padding:8px 14px; background:var(--card); white-space:pre-wrap;
  overflow-wrap:anywhere }
details { margin:10px 0 } summary { cursor:pointer; color:var(--soft) }
pre { background:var(--card); border:1px solid var(--line); border-radius:8px; padding:12px; overflow-x:auto;
  font-size:12.5px; line-height:1.45 }
@media print { details { display:none } }
"""


@dataclass
class Course:
    """A run's events as the report needs them; iterations made again after a restart replace the first ones."""

    steps: dict[int, Progress] = field(default_factory=dict)
    ranks: dict[int, Progress] = field(default_factory=dict)
    validations: dict[tuple[int, int], Validation] = field(default_factory=dict)
    others: list[Event] = field(default_factory=list)

    @classmethod
    def of(cls, events: Iterable[Event]) -> Course:
        """Take a run's events, in order."""
        course = cls()
        for event in events:
            course._take(event)
        # each process writes a part of its own, so the parts' order is not that of time
        course.others.sort(key=lambda event: event.time)
        return course

    def _take(self, event: Event) -> None:
        match event:
            case Progress():
                self.ranks[event.rank] = event
                if event.rank == 0:
                    self.steps[event.iteration] = event
                    thin_out(self.steps, _ROWS)
            case Validation():
                self.validations[event.net, event.iteration] = event
            case RunStarted() | RunEnded() | Restarted() | Warned():
                self.others.append(event)

    def all(self, kind: type[Any]) -> list[Any]:
        """The events of a kind that is kept whole."""
        return [event for event in self.others if isinstance(event, kind)]


def write_report(folder: RunFolder) -> str:
    """Write ``report.html`` into a run folder, from what lies there; returns its path or URL.

    Raises:
        StorageError: the folder holds no run, or cannot be written to.
    """
    events = (from_dict(record) for record in folder.read_events())
    text = report(folder.url, folder.read_run(), events, folder.read_snapshots())
    place = join(folder.url, NAME)
    atomic_write(place, text)
    return place


def report(url: str, run: Mapping[str, Any], events: Iterable[Event], snapshots: Sequence[Mapping[str, Any]]) -> str:
    """The page's text.

    Args:
        url: of the run folder.
        run: content of ``run.json``.
        events: of the run, in order.
        snapshots: the whole ones, as the run folder lists them.
    """
    course = Course.of(events)
    started = course.all(RunStarted)
    title = (started[-1].net if started else "") or "A training"
    parts = [
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{_text(title)}</title>",
        '<meta name=viewport content="width=device-width,initial-scale=1">',
        f"<style>{_STYLE}</style></head><body><main>",
        _head(title, url, course),
        _figures(course),
        _charts(course),
        _restarts(course),
        _warnings(course),
        _validations(course),
        _snapshots(snapshots),
        _ranks(course),
        _configuration(run),
        "</main></body></html>\n",
    ]
    return "".join(parts)


def _head(title: str, url: str, course: Course) -> str:
    started, ended = course.all(RunStarted), course.all(RunEnded)
    status = ended[-1].status if ended else "not ended"
    if ended and started and ended[-1].time < started[-1].time:
        status = "not ended"
    found = f"<h1>{_text(title)}<span class='badge {_text(status)}'>{_text(status)}</span></h1>"
    found += f"<p class='soft path'>{_text(url)}</p>"
    if started:
        found += f"<p>{_text(describe_run(started[0]))}</p>"
        last = ended[-1].time if ended else max((step.time for step in course.steps.values()), default=started[0].time)
        found += f"<p class=soft>began {_moment(started[0].time)}, last heard of {_moment(last)}</p>"
    if ended and ended[-1].message and status != "done":
        found += f"<h2>Why it ended</h2><div class=error>{_text(ended[-1].message)}</div>"
    return found


def _figures(course: Course) -> str:
    steps = [course.steps[iteration] for iteration in sorted(course.steps)]
    cards: list[tuple[str, str]] = []
    started, ended = course.all(RunStarted), course.all(RunEnded)
    if started:
        done = ended[-1].iteration if ended else steps[-1].iteration + 1 if steps else 0
        cards.append((f"{done:,} / {started[-1].max_iter:,}", "iterations"))
    if steps:
        cards.append((f"{steps[-1].loss:.4g}", "last training loss"))
    tests = [event for (net, _), event in sorted(course.validations.items()) if net == 0]
    for name, value in (tests[-1].outputs if tests else {}).items():
        if not isinstance(value, list):
            cards.append((f"{value:.4g}", f"last validation: {name}"))
    if steps:
        cards.append((f"{_median([step.rows_per_second for step in steps]):,.0f}", "rows a second (median)"))
        for name in ("input", "compute", "communication"):
            mean = sum(getattr(step, f"{name}_share") for step in steps) / len(steps)
            cards.append((f"{mean:.0%}", f"of the time: {name}"))
    if started and (ended or steps):
        seconds = (ended[-1].time if ended else steps[-1].time) - started[0].time
        cards.append((_duration(seconds), "from first group to end"))
    cards.append((str(len(course.all(Restarted))), "restarts"))
    return (
        "<div class=cards>"
        + "".join(f"<div class=card><b>{b}</b><span>{_text(s)}</span></div>" for b, s in cards)
        + "</div>"
    )


def _charts(course: Course) -> str:
    steps = [course.steps[iteration] for iteration in sorted(course.steps)]
    if not steps:
        return ""
    marks = [float(event.iteration) for event in course.all(Restarted)]
    tests = [event for (net, _), event in sorted(course.validations.items()) if net == 0]
    numbers = _numbers(tests)
    losses = {name: points for name, points in numbers.items() if "loss" in name.lower()}
    others = {name: points for name, points in numbers.items() if name not in losses}

    def over(name: str) -> list[tuple[float, float]]:
        found = ((float(step.iteration), getattr(step, name)) for step in steps)
        return [(x, float(y)) for x, y in found if y is not None]

    loss = [Curve("training", over("loss"))] + [Curve(f"test {n}", p, dots=True) for n, p in losses.items()]
    shares = [Curve(n, over(f"{n}_share"), filled=True) for n in ("input", "compute", "communication")]
    drawn = [chart("loss", loss, marks)]
    if others:
        share = all(0 <= y <= 1 for points in others.values() for _, y in points)
        drawn.append(chart("validation", [Curve(n, p, dots=True) for n, p in others.items()], marks, share=share))
    drawn += [
        chart("learning rate", [Curve("lr", over("lr"))], marks),
        chart("gradient norm", [Curve("L2 norm", over("gradient_norm"))], marks),
        chart("rows a second", [Curve("rows/s", over("rows_per_second"))], marks),
        chart("where the time goes", shares, marks, share=True),
    ]
    note = "<p class=soft>Dashed lines: restarts, at the iteration gone back to.</p>" if marks else ""
    return "<div class=charts>" + "".join(f"<figure>{svg}</figure>" for svg in drawn) + "</div>" + note


def _numbers(tests: Sequence[Validation]) -> dict[str, list[tuple[float, float]]]:
    """Those outputs of the validations that are single numbers, over the iterations."""
    found: dict[str, list[tuple[float, float]]] = {}
    for event in tests:
        for name, value in event.outputs.items():
            if not isinstance(value, list):
                found.setdefault(name, []).append((float(event.iteration), float(value)))
    return found


def _restarts(course: Course) -> str:
    rows = [[_moment(e.time), str(e.iteration), e.reason] for e in course.all(Restarted)]
    return _table("Restarts", ["when", "from iteration", "reason"], rows, numbers=(1,)) if rows else ""


def _warnings(course: Course) -> str:
    found = course.all(Warned)
    rows = [[_moment(e.time), "" if e.rank is None else str(e.rank), e.message] for e in found[-_LISTED:]]
    more = f" (the last {_LISTED} of {len(found)})" if len(found) > _LISTED else ""
    return _table(f"Warnings{more}", ["when", "rank", "message"], rows, numbers=(1,)) if rows else ""


def _validations(course: Course) -> str:
    found = [event for (_, _), event in sorted(course.validations.items())]
    if not found:
        return ""
    names = list(dict.fromkeys(name for event in found for name in event.outputs))
    rows = [
        [
            str(e.iteration),
            str(e.net),
            *(_shown(e.outputs.get(name)) for name in names),
            f"{e.rows:,}",
            f"{e.seconds:.3g}",
        ]
        for e in found
    ]
    heads = ["iteration", "net", *names, "rows", "seconds"]
    return _folded(f"{len(rows)} validations", _table("", heads, rows, numbers=range(len(heads))))


def _snapshots(snapshots: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [str(s["iteration"]), s["model"], s["state"], f"{sum(s['sizes'].values()) / 1e6:.3g} MB",
         "checkpoint" if s.get("automatic") else "snapshot"]
        for s in snapshots
    ]  # fmt: skip
    return _table("Snapshots", ["iteration", "model", "state", "size", "kind"], rows, numbers=(0, 3)) if rows else ""


def _ranks(course: Course) -> str:
    started = course.all(RunStarted)
    if not started:
        return ""
    rows = []
    for rank in started[-1].ranks:
        last = course.ranks.get(rank["rank"])
        loss = "" if last is None or last.rank_loss is None else f"{last.rank_loss:.4g}"
        memory = "" if last is None else f"{last.memory / 2**20:,.0f} MiB"
        waiting = "" if last is None else f"{last.input_share:.0%}"
        rows.append([str(rank["rank"]), str(rank["worker"]), rank["host"], str(rank["threads"]), loss, waiting, memory])
    heads = ["rank", "worker", "host", "threads", "last own loss", "waits for rows", "most memory"]
    return _table("Ranks of the last group", heads, rows, numbers=(0, 3, 4, 5, 6))


def _configuration(run: Mapping[str, Any]) -> str:
    config = run.get("config", {})
    given = {name: value for name, value in config.items() if name not in OPTIONS or value != default_of(OPTIONS[name])}
    facts = {"seed": run.get("seed"), "rows": run.get("rows"), **given}
    rows = [[name, str(value)] for name, value in facts.items() if value is not None]
    versions = ", ".join(f"{name} {version}" for name, version in run.get("versions", {}).items())
    found = _table("Configuration", ["option", "value"], rows)
    every = [[name, str(value)] for name, value in config.items()]
    found += _folded("all options", _table("", ["option", "value"], every))
    found += _folded("solver and net", f"<pre>{_text(str(run.get('solver', '')))}</pre>")
    return found + f"<p class=soft>{_text(versions)}</p>"


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    right = set(numbers)

    def cell(tag: str, column: int, content: str) -> str:
        return f"<{tag}{' class=n' if column in right else ''}>{_text(content)}</{tag}>"

    found = f"<h2>{_text(title)}</h2>" if title else ""
    found += "<div class=table><table><tr>" + "".join(cell("th", *each) for each in enumerate(heads)) + "</tr>"
    for row in rows:
        found += "<tr>" + "".join(cell("td", *each) for each in enumerate(row)) + "</tr>"
    return found + "</table></div>"


def _folded(summary: str, content: str) -> str:
    return f"<details><summary>{_text(summary)}</summary>{content}</details>"


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return ", ".join(f"{part:.4g}" for part in (value if isinstance(value, list) else [value]))


def _text(value: str) -> str:
    return html.escape(value)


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(max(0.0, seconds), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest:.0f} s" if minutes else f"{rest:.1f} s"


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]
