"""Dashboards and provisioning: the files agree with each other, with Prometheus, and with the metrics there are."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from grafana import serving
from grafana.check_panels import DASHBOARDS, Target, metric_names, targets, with_variables
from tests.contract.files import ROOT, compose
from tests.contract.known_metrics import exposed, recorded, selectors
from tests.prometheus import promtool

PROVISIONING = ROOT / "grafana" / "provisioning"
DATASOURCES = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yaml").read_text())["datasources"]
SERVING = json.loads((DASHBOARDS / "serving.json").read_text())
PANELS = [pytest.param(panel, id=panel["title"]) for panel in SERVING["panels"] if panel["type"] != "row"]
TARGETS = list(targets())


def test_the_file_is_what_serving_py_writes() -> None:
    assert (DASHBOARDS / "serving.json").read_text() == serving.text(), "run python -m grafana.serving"


def test_a_dashboard_keeps_its_address() -> None:
    uids = [json.loads(path.read_text())["uid"] for path in DASHBOARDS.glob("*.json")]

    assert "shoal-serving" in uids
    assert len(uids) == len(set(uids))


def test_rows_ask_what_an_operator_asks() -> None:
    rows = [panel["title"] for panel in SERVING["panels"] if panel["type"] == "row"]

    assert rows[:3] == ["Is it answering?", "Is it fast?", "Where does the time go?"]
    assert rows[-1] == "How near is the limit?"


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_explains_itself(panel: dict[str, Any]) -> None:
    assert re.fullmatch(r".{20,240}[.?]", panel["description"])
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    if panel["type"] != "table":
        assert all(target["legendFormat"] for target in panel["targets"])
        assert len({target["legendFormat"] for target in panel["targets"]}) == len(panel["targets"])


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_asks_the_provisioned_datasource(panel: dict[str, Any]) -> None:
    provisioned = {source["uid"] for source in DATASOURCES}

    assert panel["datasource"]["uid"] in provisioned
    assert all(target["datasource"]["uid"] in provisioned for target in panel["targets"])


def test_panels_do_not_overlap() -> None:
    boxes = [(panel["title"], panel["gridPos"]) for panel in SERVING["panels"]]
    ids = [panel["id"] for panel in SERVING["panels"]]

    assert all(box["x"] >= 0 and box["x"] + box["w"] <= 24 for _, box in boxes)
    assert not [(one, other) for (one, a), (other, b) in itertools.combinations(boxes, 2) if overlap(a, b)]
    assert len(ids) == len(set(ids))


def overlap(a: dict[str, int], b: dict[str, int]) -> bool:
    return (
        a["x"] < b["x"] + b["w"] and b["x"] < a["x"] + a["w"] and a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"]
    )


@pytest.mark.parametrize("target", [pytest.param(target, id=f"{target.panel}-{i}") for i, target in enumerate(TARGETS)])
def test_a_query_asks_for_metrics_and_labels_that_exist(target: Target) -> None:
    known = exposed() | recorded()

    assert metric_names(target.expr), "it asks for nothing"
    assert metric_names(target.expr) <= known.keys()
    assert not [(name, labels) for name, labels in selectors(target.expr) if not labels <= known[name]]


OURS = sorted({re.sub(r"_(bucket|sum|count)$", "", name) for name in exposed() if name.startswith("shoal_")})


@pytest.mark.parametrize("metric", OURS)
def test_a_metric_is_drawn_and_explained(metric: str) -> None:
    rules = [(ROOT / "prometheus" / "rules" / f"{name}.yaml").read_text() for name in ("recording", "alerts")]

    assert metric in "".join([*rules, *(target.expr for target in TARGETS)])
    assert metric in (ROOT / "README.md").read_text()


def test_annotations_ask_for_metrics_that_exist() -> None:
    asked = [with_variables(annotation["expr"]) for annotation in SERVING["annotations"]["list"]]

    assert set().union(*map(metric_names, asked)) <= (exposed() | recorded()).keys()


def test_prometheus_can_parse_every_query(tmp_path: Path) -> None:
    exprs = {target.expr for target in TARGETS} | {
        with_variables(annotation["expr"]) for annotation in SERVING["annotations"]["list"]
    }
    as_rules = [{"record": f"query_{number}", "expr": expr} for number, expr in enumerate(sorted(exprs))]
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": as_rules}]}))

    check = promtool("check", "rules", tmp_path / "queries.yaml")

    assert check.returncode == 0, check.stdout + check.stderr


def test_grafana_finds_the_dashboards_and_prometheus() -> None:
    services = compose()["services"]
    mounts = dict(volume.split(":")[:2] for volume in services["grafana"]["volumes"])
    providers = yaml.safe_load((PROVISIONING / "dashboards" / "shoal.yaml").read_text())["providers"]

    assert mounts["./grafana/provisioning"] == "/etc/grafana/provisioning"
    assert [provider["options"]["path"] for provider in providers] == [mounts["./grafana/dashboards"]]
    assert [source["url"] for source in DATASOURCES] == ["http://prometheus:9090"]
    assert "prometheus" in services


def test_grafana_knows_how_often_prometheus_scrapes() -> None:
    interval = yaml.safe_load((ROOT / "prometheus" / "prometheus.yaml").read_text())["global"]["scrape_interval"]

    assert [source["jsonData"]["timeInterval"] for source in DATASOURCES] == [interval]
