"""Makes ``dashboard.json`` beside it (`make dashboard`). Here the panels are a table; Grafana's own form hides them."""

import sys
from itertools import count
from pathlib import Path
from typing import NamedTuple

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.common import LegendPlacement

DATA_SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH, STATS_IN_ROW = 24, 8


class Panel(NamedTuple):
    """A panel: its title, its unit, and its lines by their legends. ``@`` stands for the instances that were chosen."""

    title: str
    unit: str
    lines: dict[str, str]
    stat: bool = False  # one number
    red: tuple[str, float] | None = None  # "from" or "below" which number it is bad


def rate(metric: str, by: str = "", only: str = "") -> str:
    """How fast a count grows, of all instances and workers together."""
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{{@{only}}}[$__rate_interval]))"


def quantiles(metric: str, by: str = "") -> dict[str, str]:
    """The median and the 99th percentile of a histogram."""
    legend = f" {{{{{by}}}}}" if by else ""
    buckets = rate(f"{metric}_bucket", f"le, {by}" if by else "le")
    return {
        f"{name}{legend}": f"histogram_quantile({share}, {buckets})" for name, share in (("p50", 0.5), ("p99", 0.99))
    }


def mean(metric: str) -> str:
    """The mean of what a histogram observed."""
    return f"{rate(f'{metric}_sum')} / {rate(f'{metric}_count')}"


REQUESTS, SERVER_ERRORS = "analytics_http_requests_total", ', status=~"5.."'
#: The cap and the quarantine are one for all workers of an instance.
SPOOL_SHARE = "max(sum by (instance) (analytics_spool_bytes{@}) / max by (instance) (analytics_spool_max_bytes{@}))"
SPOOL_CAP = "sum(max by (instance) (analytics_spool_max_bytes{@}))"
QUARANTINE = "sum(max by (instance) (analytics_quarantine_events{@}))"
#: Of metrics that every program has: only those of this service.
OURS = " and on (instance) analytics_build_info"
ROWS: dict[str, list[Panel]] = {
    "Now": [
        Panel("Accepted", "cps", {"": rate("analytics_events_accepted_total")}, stat=True),
        Panel("Pending", "short", {"": "sum(analytics_pending_events{@})"}, stat=True),
        Panel("Oldest pending", "s", {"": "max(analytics_oldest_pending_event_age_seconds{@})"}, True, ("from", 60)),
        Panel("Spool", "percentunit", {"": SPOOL_SHARE}, True, ("from", 0.5)),
        Panel("ClickHouse", "bool_on_off", {"": "min(analytics_clickhouse_up{@})"}, True, ("below", 1)),
        Panel("Ready", "bool_yes_no", {"": "min(max by (instance) (analytics_ready{@}))"}, True, ("below", 1)),
        Panel("Quarantine", "short", {"": QUARANTINE}, True, ("from", 1)),
        Panel("Lost", "short", {"": "sum(analytics_events_lost_total{@})"}, True, ("from", 1)),
    ],
    "Events": [
        Panel("Events a second", "cps", {
            name: rate(f"analytics_events_{name}_total") for name in ("accepted", "flushed", "duplicate", "quarantined")
        }),
        Panel("Acknowledged to visible", "s", quantiles("analytics_acknowledged_to_visible_seconds")),
        Panel("Pending events", "short", {"{{instance}}": "sum by (instance) (analytics_pending_events{@})"}),
        Panel("Refused events of batch requests", "cps", {
            "{{reason}}": rate("analytics_events_refused_total", "reason")
        }),
    ],
    "Requests": [
        Panel("Requests a second", "reqps", {
            "{{method}} {{route}} {{status}}": rate(REQUESTS, "method, route, status")
        }),
        Panel("Time to answer", "s", quantiles("analytics_http_request_duration_seconds", "route")),
        Panel("Refused requests", "reqps", {"{{reason}}": rate("analytics_requests_refused_total", "reason") + " > 0"}),
        Panel("Share of 5xx", "percentunit", {
            "5xx": f"({rate(REQUESTS, only=SERVER_ERRORS)} or vector(0)) / {rate(REQUESTS)}"
        }),
        Panel("Connections", "short", {"{{instance}}": "sum by (instance) (analytics_connections{@})"}),
        Panel("Bodies in flight", "bytes", {
            "held": "sum(analytics_inflight_bytes{@})", "limit": "sum(analytics_inflight_max_bytes{@})"
        }),
    ],
    "Spool and disk": [
        Panel("Spool", "bytes", {
            "bytes": "sum(analytics_spool_bytes{@})", "cap": SPOOL_CAP
        }),
        Panel("Free on the disk", "bytes", {
            "{{instance}}": "min by (instance) (analytics_disk_free_bytes{@})"
        }),
        Panel("Group commit", "s", quantiles("analytics_group_commit_duration_seconds")
              | {f"fsync {name}": line for name, line in quantiles("analytics_fsync_duration_seconds").items()}),
        Panel("Events a group commit", "short", {"mean": mean("analytics_group_commit_events")}),
    ],
    "ClickHouse": [
        Panel("Flush", "s", quantiles("analytics_flush_duration_seconds")),
        Panel("Events a flush", "short", {"mean": mean("analytics_flush_events")}),
        Panel("Failed calls", "cps", {"{{class}} {{code}}": rate("analytics_clickhouse_errors_total", "class, code")}),
        Panel("Quarantine", "short", {
            "refused": QUARANTINE,
            "damaged": "sum(max by (instance) (analytics_quarantine_damaged_files{@}))",
        }),
    ],
    "Process": [
        Panel("CPU", "short", {
            "{{instance}} {{worker}}": rate("process_cpu_seconds_total", "instance, worker") + OURS
        }),
        Panel("Memory", "bytes", {"{{instance}} {{worker}}": "process_resident_memory_bytes{@}" + OURS}),
        Panel("Event loop lag", "s", {"longest": "max(analytics_event_loop_lag_max_seconds{@})"}
              | quantiles("analytics_event_loop_lag_seconds")),
        Panel("File descriptors", "short", {"{{instance}} {{worker}}": "process_open_fds{@}" + OURS}),
    ],
}  # fmt: skip


def build() -> models.Dashboard:
    """The dashboard."""
    board = (
        dashboard.Dashboard("Analytics")
        .uid("analytics")
        .tags(["analytics"])
        .refresh("10s")
        .time("now-1h", "now")
        .timezone("browser")
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(
            dashboard.QueryVariable("instance")
            .label("Instance")
            .datasource(DATA_SOURCE)
            .query("label_values(analytics_build_info, instance)")
            .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .include_all(True)
            .all_value(".*")
            .multi(True)
        )
    )
    numbers = count(1)
    for title, panels in ROWS.items():
        board = board.with_row(dashboard.Row(title).id(next(numbers)))
        for panel in panels:
            board = board.with_panel(_panel(panel).id(next(numbers)))
    return board.build()


def _panel(panel: Panel) -> stat.Panel | timeseries.Panel:
    if panel.stat:
        made = stat.Panel().height(4).span(WIDTH // STATS_IN_ROW).thresholds(_thresholds(*panel.red or ("from", None)))
    else:
        legend = common.VizLegendOptions().show_legend(True).placement(LegendPlacement.BOTTOM)
        made = timeseries.Panel().height(8).span(WIDTH // 2).legend(legend).fill_opacity(10).min(0)
    made = made.title(panel.title).unit(panel.unit).datasource(DATA_SOURCE)
    for index, (legend, line) in enumerate(panel.lines.items()):
        query = line.replace("@", 'instance=~"$instance"')
        made = made.with_target(prometheus.Dataquery().expr(query).legend_format(legend).ref_id(chr(ord("A") + index)))
    return made


def _thresholds(where: str, limit: float | None) -> dashboard.ThresholdsConfig:
    first, then = ("green", "red") if where == "from" else ("red", "green")
    steps = [models.Threshold(None, first), *([models.Threshold(limit, then)] if limit is not None else [])]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_suffix(".json")
    target.write_text(JSONEncoder(sort_keys=True, indent=2).encode(build()) + "\n")
