"""What runs inside the Dask scheduler to show a cluster: the page ``/adaptive`` of the dashboard, and the metrics.

This file travels to the scheduler as text, as ``plugin.py`` does, and imports what every scheduler has. Bokeh and
``prometheus_client`` are used where they are: without the first there is no page, without the second there are no
metrics, and nothing else changes. Everything that is shown comes from the last bulletin of each cluster, and every
text in it is a stranger's: it is escaped.
"""
# ruff: noqa: ARG001, ARG002  Dask decides on the arguments of hooks and pages

from __future__ import annotations

import html
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from time import monotonic
from typing import Any
from urllib.parse import quote

import dask
from distributed.diagnostics.plugin import SchedulerPlugin
from tornado.ioloop import IOLoop

__all__ = ["NAMES", "Page"]

NAMES = (
    ("distributed.dashboard.core", "BokehApplication", "pages as the dashboard makes them"),
    ("distributed.dashboard.scheduler", "template_variables", "the navigation"),
    ("distributed.dashboard.components.scheduler", "env", "the frame around a page"),
    ("distributed.dashboard.components.scheduler", "BOKEH_THEME", "its colours"),
    ("distributed.http.scheduler.info", "IndividualPlots", "the list that dask-labextension reads"),
    ("scheduler", "http_application", "where pages are found"),
)
"""Names of ``distributed`` that its documentation does not promise: where, name, what for. Without one: no page."""

PATH = "/adaptive"
PLOT = "/individual-adaptive"
KEPT = 600
SILENT_S = 10.0
FORGOTTEN_S = 3600.0
REFRESH_MS = 1000
HEIGHT = 190
FAULT = "#D55E00"

logger = logging.getLogger("distributed.adaptive.page")


class Page(SchedulerPlugin):
    """Keeps the last bulletin of one cluster, and what it said over time: so much that a page can be drawn from it."""

    def __init__(self, **config: Any) -> None:
        self.name = config["name"]
        self.token = config["token"]
        self.bulletin: dict[str, Any] = {}
        self.points: list[tuple[float, Mapping[str, int], Mapping[str, Any]]] = []
        self.heard = monotonic()

    def start(self, scheduler: Any) -> None:
        """Take over from an earlier one of the same name, with its past; add page and metrics where they can be."""
        earlier = scheduler.plugins.get(self.name)
        if earlier is not None:
            self.points = list(earlier.points)
            earlier.stop()
        self.scheduler = scheduler
        self.calls: dict[str, Callable[..., Any]] = {
            f"{self.name}-publish": self.publish,
            f"{self.name}-detach": self.detach,
        }
        scheduler.handlers.update(self.calls)
        self._try(add_page)
        self._try(add_metrics)

    def _try(self, add: Callable[[Page], None]) -> None:
        try:
            add(self)
        except Exception:  # another distributed, bokeh or prometheus_client than we know
            logger.info("%s: %s did not succeed", self.name, add.__name__, exc_info=True)

    def stop(self) -> None:
        """Take everything out again; idempotent."""
        for name, call in self.calls.items():
            if self.scheduler.handlers.get(name) == call:
                del self.scheduler.handlers[name]
        if self.scheduler.plugins.get(self.name) is self:
            del self.scheduler.plugins[self.name]
        remove_metrics(self)
        if not list(pages_of(self.scheduler, 0.0)):
            remove_page(self.scheduler)

    async def close(self) -> None:
        """The scheduler ends."""
        self.stop()

    def publish(self, token: str, bulletin: dict[str, Any]) -> bool:
        """Call: the newest bulletin; False where another controller took over."""
        if token != self.token:
            return False
        self.heard, self.bulletin = monotonic(), bulletin
        if bulletin:
            self.points.append((bulletin["at_s"], bulletin["tasks"], bulletin["pools"]))
        if len(self.points) > KEPT:  # the older half becomes coarser, again and again
            self.points[: KEPT // 2] = self.points[: KEPT // 2 : 2]
        return True

    def detach(self, token: str) -> bool:
        """Call: take this out of the scheduler, unless another controller took over."""
        if token == self.token:
            self.stop()
        return True


def pages_of(scheduler: Any, since: float) -> Iterator[Page]:
    """One for each cluster on this scheduler that spoke since."""
    for plugin in list(scheduler.plugins.values()):
        if hasattr(plugin, "bulletin") and plugin.heard > since:  # maybe of another copy of this file
            yield plugin


# --- its place on the dashboard ----------------------------------------------------------------------------------


def add_page(page: Page) -> None:
    """Add the page to the scheduler's dashboard, if it has one and there is none of ours yet."""
    application = page.scheduler.http_application
    dashboard = next((each for each in application.applications if hasattr(each, "app_paths")), None)
    if dashboard is None or PATH in [path for each in application.applications for path in paths_of(each)]:
        return
    from distributed.dashboard.core import BokehApplication
    from distributed.dashboard.scheduler import template_variables

    shown = template_variables(page.scheduler)
    documents = {PATH: framed, PLOT: document}
    ours = BokehApplication(documents, page.scheduler, prefix=dashboard.prefix, template_variables=shown)
    application.add_application(ours)
    ours.initialize(IOLoop.current())
    ours.start()
    shown["pages"].insert(-1, PATH.strip("/"))
    shown["plots"].append({"url": PLOT.strip("/"), "name": "Adaptive"})
    list_plot(page.scheduler, dashboard.prefix)


def paths_of(application: Any) -> Iterable[str]:
    """The pages of a Bokeh application; nothing of any other."""
    return getattr(application, "app_paths", ())


def list_plot(scheduler: Any, prefix: str) -> None:
    """Let dask-labextension find the page; the answer is Dask's own again while there is none."""
    from distributed.http.scheduler.info import IndividualPlots

    application = scheduler.http_application
    if application.settings.get(PLOT):
        return

    class Plots(IndividualPlots):
        def write(self, chunk: Any) -> None:
            here = any(PLOT in paths_of(each) for each in application.applications)
            super().write({**chunk, "Individual Adaptive": PLOT} if here and chunk else chunk)

    application.settings[PLOT] = True
    path = f"{prefix.rstrip('/')}/individual-plots.json"
    application.add_handlers(".*$", [(path, Plots, {"dask_server": scheduler})])


def remove_page(scheduler: Any) -> None:
    """Take the page off the dashboard again."""
    applications = getattr(getattr(scheduler, "http_application", None), "applications", [])
    for ours in [each for each in applications if PATH in paths_of(each)]:
        from distributed.dashboard.scheduler import template_variables

        applications.remove(ours)
        ours.stop()
        shown = template_variables(scheduler)
        shown["pages"][:] = [page for page in shown["pages"] if page != PATH.strip("/")]
        shown["plots"][:] = [plot for plot in shown["plots"] if plot["url"] != PLOT.strip("/")]


# --- the page ----------------------------------------------------------------------------------------------------


def framed(scheduler: Any, extra: Mapping[str, Any], doc: Any) -> None:
    """The page with Dask's navigation around it."""
    from distributed.dashboard.components.scheduler import env

    document(scheduler, extra, doc)
    doc.template = env.get_template("simple.html")
    doc.template_variables.update(extra)
    doc.template_variables["active_page"] = PATH.strip("/")


def document(scheduler: Any, extra: Mapping[str, Any], doc: Any) -> None:
    """The page by itself, as dask-labextension shows it."""
    from distributed.dashboard.components.scheduler import BOKEH_THEME

    sheet = Sheet(scheduler)
    doc.title = "Dask: Adaptive"
    doc.theme = BOKEH_THEME
    doc.add_root(sheet.root)
    doc.add_periodic_callback(sheet.update, REFRESH_MS)


class Sheet:
    """One open page: the clusters of a scheduler below each other."""

    def __init__(self, scheduler: Any) -> None:
        from bokeh.models import Column

        self.scheduler = scheduler
        self.root = Column(sizing_mode="stretch_width")
        self.shown: tuple[Any, ...] = ("nothing yet",)
        self.parts: list[tuple[Page, list[Chart], Words]] = []
        self.update()

    def update(self) -> None:
        """Show what there is now; the figures are made anew only where clusters or pools came or went."""
        pages = [page for page in pages_of(self.scheduler, monotonic() - FORGOTTEN_S) if page.bulletin]
        now = tuple((page.token, *page.bulletin["pools"]) for page in pages)
        if now != self.shown:
            self.shown, self.parts = now, [(page, charts_of(page), Words()) for page in pages]
            empty = [] if pages else [div("<p>No cluster of dask-adaptive has told anything here yet.</p>")]
            drawn = [[words.above, *(chart.figure for chart in charts), words.below] for _, charts, words in self.parts]
            self.root.children = [*empty, *(each for part in drawn for each in part)]
        for page, charts, words in self.parts:
            for chart in charts:
                chart.update(page.points)
            words.update(page, self.scheduler)


def div(text: str = "") -> Any:
    from bokeh.models import Div

    return Div(text=text, sizing_mode="stretch_width", disable_math=True)


def charts_of(page: Page) -> list[Chart]:
    """The jobs of each pool, and the demand."""
    bands, work = page.bulletin["bands"], page.bulletin["work"]
    pools = [
        Chart(f"jobs: {pool}", [(name, colour) for name, colour, _ in bands], jobs_series(pool, bands))
        for pool in page.bulletin["pools"]
    ]
    tasks = Chart("tasks: the demand", work, lambda point: {name: point[1][name] for name, _ in work})
    for chart in pools:
        chart.figure.x_range = tasks.figure.x_range  # they are moved together
    return [*pools, tasks]


def jobs_series(pool: str, bands: Sequence[Any]) -> Callable[[Any], dict[str, Any]]:
    """The numbers of one pool at a point of time."""

    def series(point: Any) -> dict[str, Any]:
        said = point[2].get(pool, {})
        counts = {name: sum(said.get("phases", {}).get(phase, 0) for phase in phases) for name, _, phases in bands}
        return {**counts, "wanted": said.get("wanted"), "minimum": said.get("minimum"), "maximum": said.get("maximum")}

    return series


class Chart:
    """Bands on each other over time, as steps; and lines where the series has any."""

    LINES = (("wanted", "#222222", "solid"), ("maximum", FAULT, "dashed"), ("minimum", FAULT, "dotted"))

    def __init__(self, title: str, bands: Sequence[Any], series: Callable[[Any], Mapping[str, Any]]) -> None:
        from bokeh.models import BasicTicker, ColumnDataSource, Legend
        from bokeh.plotting import figure

        self.names, self.series = [name for name, *_ in bands], series
        self.lines = [name for name, *_ in self.LINES] if title.startswith("jobs") else []
        self.source = ColumnDataSource({name: [] for name in ("t", *self.names, *self.lines)})
        self.figure = figure(
            x_axis_type="datetime", height=HEIGHT, sizing_mode="stretch_width", tools="xpan,xwheel_zoom,reset"
        )
        self.figure.title.text, self.figure.title.text_font_style = title, "bold"
        self.figure.y_range.start = 0
        self.figure.yaxis.ticker = BasicTicker(min_interval=1)
        self.figure.yaxis.axis_label, self.figure.min_border_left = title.partition(":")[0], 60
        self.figure.toolbar.autohide = True
        self.figure.add_layout(Legend(border_line_alpha=0, padding=2, spacing=0), "right")
        stack = {"color": [colour for _, colour, *_ in bands], "legend_label": self.names, "source": self.source}
        self.figure.varea_stack(self.names, x="t", **stack)
        for name, colour, dash in self.LINES if self.lines else ():
            self.figure.line(
                "t", name, source=self.source, color=colour, line_dash=dash, line_width=1.5, legend_label=name
            )

    def update(self, points: Sequence[Any]) -> None:
        """Draw these points; a limit that is far above everything else is left out."""
        rows = [self.series(point) for point in points]
        columns: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in (*self.names, *self.lines)}
        top = max((sum(row[name] for name in self.names) for row in rows), default=0)
        for name in self.lines:
            columns[name] = [value if (value or 0) <= max(4 * top, 8) else None for value in columns[name]]
        shift = datetime.now().astimezone().utcoffset()  # Bokeh knows no time zones
        at_ms = [1000 * (point[0] + (shift.total_seconds() if shift else 0.0)) for point in points]
        data = {name: stairs(values) for name, values in columns.items()}
        self.source.data = {"t": [at for at in at_ms for _ in (0, 1)][1:], **data}


def stairs(values: Sequence[Any]) -> list[Any]:
    """Every value stands until the next one."""
    return [float("nan") if value is None else value for value in values for _ in (0, 1)][:-1]


class Words:
    """What is said in words: how it goes above the figures, and the tables below."""

    def __init__(self) -> None:
        self.above, self.below = div(), div()

    def update(self, page: Page, scheduler: Any) -> None:
        """Say what the last bulletin says."""
        said = page.bulletin
        silent_s = monotonic() - page.heard
        troubles = [said["error"], *(f"impossible: {sentence}" for sentence in said["impossible"])]
        for name, pool in said["pools"].items():
            troubles += [f"pool {name} {word}: {pool[word]}" for word in ("broken", "stale") if pool[word]]
        if silent_s > SILENT_S:
            troubles.insert(0, f"the controller has said nothing for {silent_s:.0f} s")
        tasks = ", ".join(f"{count:,} {name}" for name, count in said["tasks"].items())
        lines = [f"<h2>{text(said['cluster'])}</h2><p>tasks: {text(tasks)}</p>"]
        lines += [f'<p style="color: {FAULT}"><b>{text(trouble)}</b></p>' for trouble in troubles if trouble]
        parts = ("Pools", pools_table(said)), ("Decisions", decisions_table(said)), ("Jobs", jobs_table(said))
        below = "".join(f"<h3>{name}</h3>{table}" for name, table in parts)
        declined = "".join(f"<li>{text(sentence)}</li>" for sentence in said["declined"])
        below += f"<h3>Considered and not done</h3><ul>{declined}</ul>" if declined else ""
        for part, new in ((self.above, "".join(lines)), (self.below, below)):
            if part.text != new:
                part.text = new


def text(value: object) -> str:
    """As text, whatever it is."""
    return "" if value is None else html.escape(str(value))


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are HTML already."""
    style = 'style="text-align: left; vertical-align: top; padding: 2px 14px 2px 0"'
    lines = ["".join(f"<td {style}>{cell}</td>" for cell in row) for row in rows]
    head = "".join(f"<th {style}>{name}</th>" for name in heads)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if lines else "<p>none</p>"


def clock_time(at_s: float) -> str:
    return datetime.fromtimestamp(at_s).strftime("%d %b %H:%M:%S")  # noqa: DTZ006  the scheduler's own time of day


def pools_table(said: Mapping[str, Any]) -> str:
    """Sizes, limits, start-ups, price and spend of each pool, and why it is as large as it is."""
    heads = ["pool", "jobs", "wanted", "limits", "queued for", "starts in", "price", "spent", "why"]
    rows = []
    for name, pool in said["pools"].items():
        jobs = ", ".join(f"{count} {phase}" for phase, count in pool["phases"].items()) or "none"
        top = "no maximum" if pool["maximum"] is None else pool["maximum"]
        why = [pool["why"], *(f"held back: {word}" for word in [pool["held"]] if word)]
        started = [seconds(pool["startup"].get(part)) for part in ("queue", "start")]
        worker_s = f"{pool['worker_s']:,.0f} worker-s"
        spent = worker_s if pool["price"] == 1 else f"{pool['spend']:,.2f} for {worker_s}"
        cells = [name, jobs, pool["wanted"], f"{pool['minimum']} to {top}", *started]
        rows.append([text(cell) for cell in (*cells, f"{pool['price']:g}", spent, "; ".join(why))])
    return table(heads, rows)


def seconds(learned: Sequence[float] | None) -> str:
    """Median and 90 % of what was learned: ``3.2 s, mostly below 5.0 s (12 seen)``."""
    if not learned:
        return "not known yet"
    return f"{learned[0]:,.1f} s, mostly below {learned[1]:,.1f} s ({learned[2]:.0f} seen)"


def decisions_table(said: Mapping[str, Any]) -> str:
    """The newest decisions first."""
    rows = (
        [text(cell) for cell in (number, clock_time(at_s), pool, f"{before} → {after}", reason)]
        for number, at_s, pool, before, after, reason in said["decisions"]
    )
    return table(["", "when", "pool", "jobs", "why"], rows)


def jobs_table(said: Mapping[str, Any]) -> str:
    """Every job with what the manager says of it; logs only where the cluster's owner gave them."""
    heads = ["job", "id", "pool", "phase", "workers", "since", "reason", *(["log"] if "logs" in said else [])]
    rows = []
    for job, job_id, pool, phase, workers, since_s, reason in said["jobs"]:
        cells = [text(cell) for cell in (job, job_id, pool, phase, workers, clock_time(since_s), reason)]
        rows.append([*cells, *([log_cell(job, said)] if "logs" in said else [])])
    more = f"<p>and {said['jobs_left_out']:,} more</p>" if said["jobs_left_out"] else ""
    return table(heads, rows) + more


def log_cell(job: str, said: Mapping[str, Any]) -> str:
    """The end of what a failed job printed; of one that runs, links to what Dask shows of its workers."""
    tail = said["logs"].get(job)
    if tail:
        return f"<details><summary>its end</summary><pre>{text(tail)}</pre></details>"
    if "distributed.http.scheduler.info" not in dask.config.get("distributed.scheduler.http.routes", []):
        return ""
    addresses = said["addresses"].get(job, [])
    links = (f'<a href="info/logs/{quote(address, safe="")}.html">{i}</a>' for i, address in enumerate(addresses))
    return " ".join(links)


# --- metrics -----------------------------------------------------------------------------------------------------


class Metrics:
    """Collects for Prometheus what the last bulletins of all clusters in this process say."""

    POOL = ("cluster", "pool")
    GAUGES = (
        ("jobs_wanted", "Jobs that the policy asks for", "wanted"),
        ("jobs_minimum", "Never fewer jobs", "minimum"),
        ("jobs_maximum", "Never more jobs; absent without a limit", "maximum"),
        ("workers", "Workers inside jobs that run", "workers"),
        ("price", "Price of one worker-second", "price"),
    )
    COUNTERS = (
        ("worker_seconds", "Seconds of workers inside jobs that ran", "worker_s"),
        ("spend", "Worker-seconds times their price", "spend"),
        ("jobs_submitted", "Jobs asked for", "submitted"),
        ("jobs_failed", "Jobs that failed", "failed"),
    )

    def __init__(self) -> None:
        self.pages: list[Page] = []

    def describe(self) -> list[Any]:
        """Nothing in advance: which metrics there are is known when they are collected."""
        return []

    def collect(self) -> Iterator[Any]:
        """Every family once, with a sample for each cluster."""
        known = {page.bulletin["cluster"]: page for page in self.pages if page.bulletin}
        pools = [((c, name), pool) for c, page in known.items() for name, pool in page.bulletin["pools"].items()]
        yield from self._clusters(known)
        phases = [((*where, phase), count) for where, pool in pools for phase, count in pool["phases"].items()]
        yield family("Gauge", "jobs", "Jobs by phase", (*self.POOL, "phase"), phases)
        for name, about, key in self.GAUGES:
            yield family("Gauge", name, about, self.POOL, [(where, pool[key]) for where, pool in pools])
        for name, about, key in self.COUNTERS:
            yield family("Counter", name, about, self.POOL, [(where, pool[key]) for where, pool in pools])
        broken = [(where, int(bool(pool["broken"]))) for where, pool in pools]
        yield family("Gauge", "pool_broken", "1 while a pool rests after failures", self.POOL, broken)
        decisions = [((*where, way), pool[way]) for where, pool in pools for way in ("more", "fewer")]
        yield family("Counter", "decisions", "Decisions for more or fewer jobs", (*self.POOL, "jobs"), decisions)
        errors = [((*where, call), n) for where, pool in pools for call, n in pool["manager_errors"].items()]
        yield family("Counter", "backend_errors", "Calls to the manager that failed", (*self.POOL, "call"), errors)
        starts = [((*where, part), row[0]) for where, pool in pools for part, row in pool["startup"].items()]
        yield family("Gauge", "startup_seconds", "Median of learned start-up times", (*self.POOL, "part"), starts)

    def _clusters(self, known: Mapping[str, Page]) -> Iterator[Any]:
        said = {cluster: page.bulletin for cluster, page in known.items()}
        tasks = [((c, state), n) for c, each in said.items() for state, n in each["tasks"].items()]
        yield family("Gauge", "tasks", "Tasks that are still to be finished", ("cluster", "state"), tasks)
        for name, about, key in (
            ("rounds", "Rounds of the controller", "rounds"),
            ("round_errors", "Rounds that could not decide", "errors"),
        ):
            yield family("Counter", name, about, ("cluster",), [((c,), each[key]) for c, each in said.items()])
        heard = [((cluster,), monotonic() - page.heard) for cluster, page in known.items()]
        yield family("Gauge", "silent_seconds", "Since the controller last said anything", ("cluster",), heard)


def family(kind: str, name: str, about: str, labels: Sequence[str], samples: Iterable[tuple[Any, Any]]) -> Any:
    """A family of metrics; a sample without a value is left out."""
    from prometheus_client import core

    made = getattr(core, f"{kind}MetricFamily")(f"dask_adaptive_{name}", about, labels=labels)
    for values, value in samples:
        if value is not None:
            made.add_metric([str(each) for each in values], value)
    return made


def add_metrics(page: Page) -> None:
    """Put the cluster among those that are collected. Prometheus knows one registry in a process, and so one of us."""
    try:
        import prometheus_client
    except ImportError:
        return
    registry: Any = prometheus_client.REGISTRY
    if not hasattr(registry, "dask_adaptive"):
        registry.dask_adaptive = Metrics()
        registry.register(registry.dask_adaptive)
    registry.dask_adaptive.pages.append(page)


def remove_metrics(page: Page) -> None:
    """Take the cluster out again, and with the last one the collector."""
    try:
        import prometheus_client
    except ImportError:
        return
    registry: Any = prometheus_client.REGISTRY
    metrics = getattr(registry, "dask_adaptive", None)
    if metrics is not None and page in metrics.pages:
        metrics.pages.remove(page)
        if not metrics.pages:
            del registry.dask_adaptive
            registry.unregister(metrics)
