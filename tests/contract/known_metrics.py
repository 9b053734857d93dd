"""Every metric that a rule or a panel may ask for, with its labels."""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml
from prometheus_client import Counter, Gauge, Histogram

from api import metrics
from api.processes import ReplicaCollector
from tests.contract.files import ROOT

# Prometheus' own.
_OWN: dict[str, set[str]] = {
    "up": {"job", "instance"},
    "ALERTS": {"alertname", "alertstate"},
    "scrape_duration_seconds": {"job", "instance"},
}

# Of nginx-prometheus-exporter 1.4, redis_exporter 1.74 and postgres-exporter 0.17, looked up on their /metrics.
_EXPORTED: dict[str, set[str]] = {
    "nginx_up": set(),
    "nginx_connections_active": set(),
    "nginx_connections_reading": set(),
    "nginx_connections_waiting": set(),
    "nginx_connections_writing": set(),
    "nginx_http_requests_total": set(),
    "redis_up": set(),
    "redis_connected_clients": set(),
    "redis_cpu_sys_seconds_total": set(),
    "redis_cpu_user_seconds_total": set(),
    "redis_db_keys": {"db"},
    "redis_evicted_keys_total": set(),
    "redis_expired_keys_total": set(),
    "redis_memory_max_bytes": set(),
    "redis_memory_used_bytes": set(),
    "pg_up": set(),
    "pg_database_size_bytes": {"datname"},
    "pg_settings_max_connections": set(),
    "pg_stat_activity_count": {"datname", "state"},
    "pg_stat_database_numbackends": {"datname"},
    "pg_stat_database_xact_commit": {"datname"},
    "pg_stat_database_xact_rollback": {"datname"},
}


def exposed() -> dict[str, set[str]]:
    """What replicas expose and exporters are known to: series name to label names."""
    known: dict[str, set[str]] = {**_OWN, **_EXPORTED}
    for metric in vars(metrics).values():
        if isinstance(metric, Counter | Gauge | Histogram):
            labels = set(metric._labelnames)
            known |= {name: labels | {"le"} for name in _series(metric)}
    for family in ReplicaCollector(0).describe():
        known[family.name + ("_total" if family.type == "counter" else "")] = set()
    return {name: labels | {"job", "instance"} for name, labels in known.items()}


def recorded() -> dict[str, set[str]]:
    """Series that rules/recording.yaml makes: name to the labels that its level says are left."""
    groups = yaml.safe_load((ROOT / "prometheus" / "rules" / "recording.yaml").read_text())["groups"]
    names = [rule["record"] for group in groups for rule in group["rules"]]
    return {name: set(name.partition(":")[0].split("_")) for name in names}


def selectors(expr: str) -> Iterator[tuple[str, set[str]]]:
    """The metrics of an expression that have matchers, with the label names in those."""
    for name, matchers in re.findall(r"([A-Za-z_:][\w:]*)\{([^}]*)\}", expr):
        yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", matchers))


def _series(metric: Counter | Gauge | Histogram) -> Iterator[str]:
    match metric:
        case Counter():
            yield f"{metric._name}_total"
        case Histogram():
            yield from (f"{metric._name}{end}" for end in ("_bucket", "_sum", "_count"))
        case Gauge():
            yield metric._name
