"""prometheus.yaml and its rules: Prometheus takes them, they ask for what there is, and each alert is tested."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from grafana.check_panels import metric_names, targets
from prometheus.without_containers import without_containers
from tests.contract.files import ROOT, compose
from tests.contract.known_metrics import exposed, recorded, selectors
from tests.prometheus import promtool

PROMETHEUS = ROOT / "prometheus"
RULES = PROMETHEUS / "rules"


def rules(name: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((RULES / f"{name}.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def anchors(markdown: str) -> set[str]:
    """Of a page's headings, as GitHub makes them, and those written by hand."""
    lines = re.findall(r"^#+ (.+)$", markdown, re.MULTILINE)
    made = {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}
    return made | set(re.findall(r'<a id="([^"]+)">', markdown))


ALERTS = [pytest.param(rule, id=rule["alert"]) for rule in rules("alerts")]
ALL_RULES = [
    pytest.param(rule["expr"], id=rule.get("alert") or rule["record"]) for rule in rules("alerts") + rules("recording")
]


def test_prometheus_takes_the_configuration_and_its_rules() -> None:
    check = promtool("check", "config", PROMETHEUS / "prometheus.yaml")

    assert check.returncode == 0, check.stdout + check.stderr


def test_prometheus_takes_what_start_makes_of_it_without_containers(tmp_path: Path) -> None:
    config = yaml.safe_load((PROMETHEUS / "prometheus.yaml").read_text())

    made = without_containers(config, ["127.0.0.1:8081", "127.0.0.1:8082"], ["127.0.0.1:8090"], "127.0.0.1:9090")

    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(made))
    check = promtool("check", "config", tmp_path / "prometheus.yaml")
    assert check.returncode == 0, check.stdout + check.stderr
    assert "2 rule files found" in check.stdout
    assert {job["job_name"] for job in made["scrape_configs"]} == {"api", "worker", "prometheus"}


@pytest.mark.parametrize("tests", ["alerts_test.yaml", "recording_test.yaml"])
def test_rules_do_what_their_tests_say(tests: str) -> None:
    check = promtool("test", "rules", RULES / tests)

    assert check.returncode == 0, check.stdout + check.stderr


@pytest.mark.parametrize("rule", ALERTS)
def test_an_alert_is_tested_when_it_fires_and_when_it_keeps_quiet(rule: dict[str, Any]) -> None:
    cases = yaml.safe_load((RULES / "alerts_test.yaml").read_text())["tests"]
    checks = [check for case in cases for check in case["alert_rule_test"] if check["alertname"] == rule["alert"]]

    assert {bool(check["exp_alerts"]) for check in checks} == {True, False}


@pytest.mark.parametrize("rule", ALERTS)
def test_an_alert_says_how_bad_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")

    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["description"]
    assert anchor in anchors((ROOT / page).read_text())


@pytest.mark.parametrize("expr", ALL_RULES)
def test_a_rule_asks_for_metrics_and_labels_that_exist(expr: str) -> None:
    known = exposed() | recorded()

    assert metric_names(expr) <= known.keys()
    assert not [(name, labels) for name, labels in selectors(expr) if not labels <= known[name]]


def test_a_recorded_series_is_named_level_metric_operation() -> None:
    assert not [name for name in recorded() if not re.fullmatch(r"[a-z_]+:(up|shoal_[a-z_]+):[a-z0-9_]+", name)]


def test_a_recorded_series_is_used() -> None:
    asked = [target.expr for target in targets()] + [rule["expr"] for rule in rules("alerts") + rules("recording")]

    assert recorded().keys() <= set().union(*map(metric_names, asked))


def test_every_target_is_a_service_of_compose() -> None:
    services = compose()["services"].keys()
    jobs = {
        job["job_name"]: job for job in yaml.safe_load((PROMETHEUS / "prometheus.yaml").read_text())["scrape_configs"]
    }
    hosts = {
        target.partition(":")[0]
        for job in jobs.values()
        for static in job.get("static_configs", [])
        for target in static["targets"]
    }

    assert hosts - {"localhost"} <= services
    assert jobs["api"]["dns_sd_configs"][0]["names"] == ["api"]
    assert "api" in services
