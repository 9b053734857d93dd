"""The kinds of panel that our dashboard has, and how Grafana wants them written: sixty lines of JSON each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

DATASOURCE = {"type": "prometheus", "uid": "prometheus"}  # provisioning/datasources/prometheus.yaml

HEIGHT = 8
COLUMNS = 24  # of Grafana's grid

GREEN, YELLOW, RED = "green", "orange", "red"


@dataclass(frozen=True)
class Query:
    expr: str
    legend: str = ""
    format: str = "time_series"
    instant: bool = False


@dataclass(frozen=True)
class Panel:
    kind: str
    title: str
    unit: str
    description: str
    queries: tuple[Query, ...]
    width: int = 8
    height: int = HEIGHT
    defaults: dict[str, Any] | None = None
    """Of fieldConfig: what is drawn, and how."""
    options: dict[str, Any] | None = None
    transformations: tuple[dict[str, Any], ...] = ()


def stat(title: str, unit: str, description: str, expr: str, *steps: tuple[float | None, str]) -> Panel:
    """One number, now. steps: from which value on which colour; the first is (None, colour)."""
    return Panel(
        "stat",
        title,
        unit,
        description,
        (Query(expr, title),),
        width=4,
        height=4,
        defaults={"thresholds": thresholds(*steps or ((None, "blue"),)), "color": {"mode": "thresholds"}},
        options={
            "colorMode": "value",
            "graphMode": "area",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        },
    )


def lines(
    title: str,
    unit: str,
    description: str,
    *queries: Query,
    width: int = 8,
    stacked: bool = False,
    top: float | None = None,
) -> Panel:
    """Curves over time from 0 up. top: of the axis, where the scale has an end."""
    custom: dict[str, Any] = {
        "drawStyle": "line",
        "lineInterpolation": "linear",
        "lineWidth": 1,
        "fillOpacity": 30 if stacked else 5,
        "showPoints": "never",
        "spanNulls": False,  # a gap is a lost scrape, or nobody who asked: drawing through it would hide that
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
    }
    scale: dict[str, Any] = {"min": 0} if top is None else {"min": 0, "max": top}
    return Panel(
        "timeseries",
        title,
        unit,
        description,
        queries,
        width=width,
        defaults={"custom": custom, "color": {"mode": "palette-classic"}} | scale,
        options={
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    )


def heatmap(title: str, unit: str, description: str, expr: str, width: int = 12) -> Panel:
    """Counts by histogram bucket over time; `unit` is the buckets'."""
    return Panel(
        "heatmap",
        title,
        unit,
        description,
        (Query(expr, "{{le}}", format="heatmap"),),
        width=width,
        defaults={"custom": {"scaleDistribution": {"type": "linear"}}},
        options={
            "calculate": False,
            "cellGap": 1,
            "color": {"mode": "scheme", "scheme": "Blues", "steps": 64, "exponent": 0.5, "fill": "blue"},
            "filterValues": {"le": 1e-9},
            "rowsFrame": {"layout": "auto"},
            "yAxis": {"axisPlacement": "left", "unit": unit},
            "tooltip": {"mode": "single", "yHistogram": True},
            "legend": {"show": True},
        },
    )


def states(title: str, description: str, texts: dict[int, tuple[str, str]], *queries: Query, width: int = 8) -> Panel:
    """A bar for each series, coloured by what it was. texts: value -> word and colour."""
    mappings = [
        {
            "type": "value",
            "options": {
                str(value): {"text": text, "color": colour, "index": index}
                for index, (value, (text, colour)) in enumerate(texts.items())
            },
        }
    ]
    return Panel(
        "state-timeline",
        title,
        "none",
        description,
        queries,
        width=width,
        defaults={
            "mappings": mappings,
            "custom": {"fillOpacity": 70, "lineWidth": 0},
            "color": {"mode": "thresholds"},
            "thresholds": thresholds((None, "text")),
        },
        options={
            "showValue": "never",
            "mergeValues": True,
            "rowHeight": 0.8,
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "single"},
        },
    )


def table(title: str, description: str, expr: str, columns: dict[str, str], width: int = 12) -> Panel:
    """One line a series, now. columns: label -> heading, in order; the value is named "Value"."""
    return Panel(
        "table",
        title,
        "none",
        description,
        (Query(expr, format="table", instant=True),),
        width=width,
        defaults={"custom": {"align": "left", "filterable": True}},
        options={"showHeader": True, "cellHeight": "sm", "sortBy": [{"displayName": next(iter(columns.values()))}]},
        transformations=(
            {
                "id": "organize",
                "options": {
                    "excludeByName": {"Time": True},
                    "indexByName": {label: index for index, label in enumerate(columns)},
                    "renameByName": columns,
                },
            },
        ),
    )


def thresholds(*steps: tuple[float | None, str]) -> dict[str, Any]:
    return {"mode": "absolute", "steps": [{"value": value, "color": colour} for value, colour in steps]}


def variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,  # when the time range changes: a model added since the page was opened is found
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "sort": 1,
        "current": {"text": ["All"], "value": ["$__all"]},
        "options": [],
    }


def as_json(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    targets = [
        {
            "refId": chr(ord("A") + index),
            "datasource": DATASOURCE,
            "editorMode": "code",
            "expr": query.expr,
            "legendFormat": query.legend,
            "format": query.format,
            "range": not query.instant,
            "instant": query.instant,
        }
        for index, query in enumerate(panel.queries)
    ]
    made: dict[str, Any] = {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
        "fieldConfig": {"defaults": {"unit": panel.unit} | (panel.defaults or {}), "overrides": []},
        "options": panel.options or {},
        "targets": targets,
    }
    if panel.transformations:
        made["transformations"] = list(panel.transformations)
    return made


def laid_out(rows: Sequence[tuple[str, Sequence[Panel]]]) -> list[dict[str, Any]]:
    """Panels fill each row from the left, and wrap."""
    made: list[dict[str, Any]] = []
    y = 0
    for title, panels in rows:
        heading = {"id": len(made) + 1, "type": "row", "title": title, "collapsed": False, "panels": []}
        made.append(heading | {"gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1}})
        x, y, height = 0, y + 1, 0
        for panel in panels:
            if x + panel.width > COLUMNS:
                x, y, height = 0, y + height, 0
            made.append(as_json(panel, len(made) + 1, x, y))
            x, height = x + panel.width, max(height, panel.height)
        y += height
    return made
