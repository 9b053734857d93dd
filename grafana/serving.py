"""Writes dashboards/serving.json: `python -m grafana.serving`. A test fails when the file is not what this makes.

Rows ask what an operator asks, in that order. A panel is a title, a unit, a line that says what to look for, and its
queries; each of those finds data on a stack under load (check_panels.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from grafana.panels import (
    DATASOURCE,
    GREEN,
    RED,
    YELLOW,
    Panel,
    Query,
    heatmap,
    laid_out,
    lines,
    stat,
    states,
    table,
    variable,
)

TARGET = Path(__file__).parent / "dashboards" / "serving.json"
UID = "shoal-serving"

PREDICT = 'route=~".*/predict(/batch)?"'
MODEL = 'model=~"$model", version=~"$version"'
ROWS_PER_SECOND = "suffix: rows/s"  # Grafana's own rps reads "rd/s"
WINDOW = "$__rate_interval"  # Grafana's: at least four scrapes, and never narrower than a pixel


def rate(metric: str, labels: str = "") -> str:
    return f"rate({metric}{{{labels}}}[{WINDOW}])" if labels else f"rate({metric}[{WINDOW}])"


def quantile(q: float, metric: str, by: str, labels: str = "") -> str:
    """Of all replicas together: their buckets are added first."""
    return f"histogram_quantile({q}, sum by ({by}, le) ({rate(metric + '_bucket', labels)}))"


def mean(metric: str, by: str, labels: str = "") -> str:
    total, count = (f"sum by ({by}) ({rate(metric + end, labels)})" for end in ("_sum", "_count"))
    return f"{total} / ({count} > 0)"


ANSWERING = (
    stat(
        "Replicas up",
        "none",
        "Replicas that answered their last scrape. One is no spare, none is an outage.",
        "job:up:count",
        (None, RED),
        (1, YELLOW),
        (2, GREEN),
    ),
    stat(
        "Available",
        "percentunit",
        "Share of prediction requests in the time range that were not answered with a 5xx.",
        f'1 - (sum(increase(shoal_requests_total{{{PREDICT}, status=~"5.."}}[$__range])) or vector(0))'
        f" / sum(increase(shoal_requests_total{{{PREDICT}}}[$__range]))",
        (None, RED),
        (0.99, YELLOW),
        (0.999, GREEN),
    ),
    stat(
        "Alerts firing",
        "none",
        "Alerts of rules/alerts.yaml that fire now; Prometheus lists them under /alerts.",
        'count(ALERTS{alertstate="firing"}) or vector(0)',
        (None, GREEN),
        (1, RED),
    ),
    stat(
        "Prediction requests",
        "reqps",
        "Requests to /predict and /predict/batch in all their forms, of all replicas.",
        f"sum(route:shoal_requests:rate1m{{{PREDICT}}})",
    ),
    stat(
        "Rows",
        ROWS_PER_SECOND,
        "Rows answered a second; a batch has many.",
        f"sum({rate('shoal_predictions_total')})",
    ),
    stat(
        "p99",
        "s",
        "99 of 100 single predictions of the last 5 minutes were answered within this.",
        "job:shoal_predict_request_seconds:p99_rate5m",
        (None, GREEN),
        (0.1, YELLOW),
        (0.5, RED),
    ),
    lines(
        "Requests by route",
        "reqps",
        "Requests that replicas answered, whatever the answer.",
        Query("route:shoal_requests:rate1m", "{{route}}"),
    ),
    lines(
        "Errors by route",
        "reqps",
        "Answers other than ok: callers' mistakes (4xx) and ours (5xx). 0 where a route had none.",
        Query(
            'sum by (route) (route_outcome:shoal_requests:rate1m{outcome!="ok"}) or 0 * route:shoal_requests:rate1m',
            "{{route}}",
        ),
    ),
    lines(
        "Answers by outcome",
        "reqps",
        "ok, or the slug of the problem that the caller got; the README lists them.",
        Query("sum by (outcome) (route_outcome:shoal_requests:rate1m)", "{{outcome}}"),
        stacked=True,
    ),
    lines(
        "Requests by key",
        "reqps",
        "By the name of the API key; admin is the admin token. none: probes, Prometheus, and who was refused for want"
        " of one; all of them where nobody is asked for a key.",
        Query(
            f"sum by (key) ({rate('shoal_key_requests_total')}) or label_replace(sum({rate('shoal_requests_total')})"
            f' - (sum({rate("shoal_key_requests_total")}) or vector(0)), "key", "none", "", "")',
            "{{key}}",
        ),
        stacked=True,
    ),
    lines(
        "Predictions failed and refused",
        "percentunit",
        "Share of prediction requests answered 5xx, and 429 because the queue was full; over 5 minutes.",
        Query("job:shoal_predict_requests_failed:ratio_rate5m", "failed (5xx)"),
        Query("job:shoal_predict_requests_refused:ratio_rate5m", "refused (429)"),
    ),
    states(
        "Replicas",
        "Each replica in DNS: up, or there and silent. One that died leaves DNS, so its bar ends.",
        {1: ("up", GREEN), 0: ("silent", RED)},
        Query('up{job="api"}', "{{instance}}"),
    ),
    lines(
        "Replicas by version",
        "none",
        "Of the product. Two at a time are a deploy; for long, one that stuck.",
        Query("count by (version) (shoal_build_info == 1)", "{{version}}"),
        stacked=True,
    ),
)

FAST = (
    lines(
        "All predictions",
        "s",
        "Time from arrival at the replica to its reply, of all prediction routes together.",
        *(
            Query(
                f"histogram_quantile({q}, sum by (le) (route_le:shoal_request_seconds_bucket:rate1m{{{PREDICT}}}))",
                f"p{q * 100:.0f}",
            )
            for q in (0.5, 0.95, 0.99)
        ),
        width=12,
    ),
    heatmap(
        "Distribution",
        "s",
        "Prediction requests by how long they took. Two bands are hits and misses; a third wants an explanation.",
        f"sum by (le) (increase(shoal_request_seconds_bucket{{{PREDICT}}}[{WINDOW}]))",
    ),
    *(
        lines(
            f"p{percent} by route",
            "s",
            f"{percent} of 100 requests were answered within this.",
            Query(f"route:shoal_request_seconds:p{percent}_rate1m", "{{route}}"),
        )
        for percent in (50, 95, 99)
    ),
)

STAGES = (
    lines(
        "An average prediction request",
        "s",
        "Seconds in each stage for each prediction request, stacked. A hit passes neither queue nor run, so these"
        " shrink as the cache works. other: what no stage counts, mostly Python between them.",
        Query("stage:shoal_stage_seconds:share_rate1m", "{{stage}}"),
        Query(
            f"clamp_min(sum(rate(shoal_request_seconds_sum{{{PREDICT}}}[1m]))"
            f" / (sum(rate(shoal_request_seconds_count{{{PREDICT}}}[1m])) > 0)"
            ' - sum(stage:shoal_stage_seconds:share_rate1m{stage!="proxy"}), 0)',
            "other",
        ),
        width=12,
        stacked=True,
    ),
    lines(
        "p99 of each stage",
        "s",
        "Of the requests that passed the stage. The stage whose curve follows p99 is where to look.",
        Query("stage:shoal_stage_seconds:p99_rate1m", "{{stage}}"),
        width=12,
    ),
)

CACHE = (
    lines(
        "Hit ratio",
        "percentunit",
        "Hits among the lookups of each tier. Redis is asked only for what local memory lacks, so its ratio is of the"
        " rest. any: rows answered without running the model, coalesced ones included.",
        Query("tier:shoal_cache_lookups:hit_ratio_rate1m", "{{tier}}"),
        Query("job:shoal_predictions:cached_ratio_rate1m", "any"),
        top=1,
    ),
    lines(
        "Rows by source",
        ROWS_PER_SECOND,
        "Where the answer came from: local memory, Redis, an equal row in flight, or the model (miss).",
        Query(f"sum by (cache) ({rate('shoal_predictions_total', MODEL)})", "{{cache}}"),
        stacked=True,
    ),
    lines(
        "Lookups",
        "ops",
        "By tier and result. error: refused or over the time budget; skipped: the breaker was open.",
        Query(f"sum by (tier, result) ({rate('shoal_cache_lookups_total')})", "{{tier}} {{result}}"),
    ),
    lines(
        "Answers in local memory",
        "none",
        "Of all workers of a replica. Flat at the limit is normal; falling to 0 is a restart.",
        Query("shoal_cache_local_rows", "{{instance}}"),
    ),
    states(
        "Breaker",
        "Open: this replica leaves Redis alone after failures, and computes what it would have looked up.",
        {0: ("closed", GREEN), 1: ("open", RED)},
        Query("shoal_cache_breaker_open", "{{instance}}"),
    ),
    lines(
        "Writes that Redis did not take",
        "ops",
        "Answers that were given and not cached. Harmless one by one.",
        Query(rate("shoal_cache_write_failures_total"), "{{instance}}"),
    ),
    lines(
        "Claims",
        "ops",
        "Rows of dear models that Redis did not have. own: computed there, for all; shared: another worker did it.",
        Query(f"sum by (result) ({rate('shoal_cache_claims_total')})", "{{result}}"),
    ),
    lines(
        "Flushes",
        "none",
        "Of a model's cached answers in the last 5 minutes. The hit ratio falls after one, and comes back by itself.",
        Query("sum by (model) (increase(shoal_cache_flushes_total[5m]))", "{{model}}"),
    ),
    lines(
        "Redis memory",
        "bytes",
        "Used, and the limit at which Redis drops what is least used.",
        Query("redis_memory_used_bytes", "used"),
        Query("redis_memory_max_bytes", "limit"),
    ),
    lines(
        "Redis keys",
        "none",
        "Answers that Redis holds.",
        Query('sum(redis_db_keys{db="db0"})', "keys"),
    ),
    lines(
        "Redis drops",
        "ops",
        "evicted: pushed out by newer ones as memory is full; expired: over their TTL. Evictions with a falling hit"
        " ratio ask for more memory.",
        Query(rate("redis_evicted_keys_total"), "evicted"),
        Query(rate("redis_expired_keys_total"), "expired"),
    ),
)

MODELS = (
    table(
        "Models served",
        "Every version, its artefact's digest, and on how many replicas. Two digests of a version: replicas disagree.",
        "count by (model, version, task, digest) (shoal_model_info == 1)",
        {"model": "Model", "version": "Version", "task": "Task", "digest": "Digest", "Value": "Replicas"},
        width=16,
    ),
    lines(
        "Versions refused at start",
        "none",
        "Model versions that a replica did not take: wrong digest, broken artefact, or a manifest that lies.",
        Query("shoal_models_refused", "{{instance}}"),
    ),
    lines(
        "Rows by model",
        ROWS_PER_SECOND,
        "Rows answered, from cache or not.",
        Query(f"sum by (model, version) ({rate('shoal_predictions_total', MODEL)})", "{{model}} {{version}}"),
    ),
    lines(
        "Latency by model",
        "s",
        "From the decoded request to the durable answer, p50 and p99, cache hits included.",
        *(
            Query(
                quantile(q, "shoal_prediction_seconds", "model, version", MODEL),
                f"{{{{model}}}} {{{{version}}}} {name}",
            )
            for q, name in ((0.5, "p50"), (0.99, "p99"))
        ),
    ),
    lines(
        "Run time",
        "s",
        "One run of the model, whatever its rows: mean and p99.",
        Query(mean("shoal_model_run_seconds", "model, version", MODEL), "{{model}} {{version}} mean"),
        Query(quantile(0.99, "shoal_model_run_seconds", "model, version", MODEL), "{{model}} {{version}} p99"),
    ),
    lines(
        "Rows in a batch",
        "none",
        "Mean. 1 while the model is idle when a row comes; it grows by itself with load.",
        Query(mean("shoal_batch_rows", "model, version", MODEL), "{{model}} {{version}}"),
    ),
    heatmap(
        "Batch sizes",
        "none",
        "Runs by how many rows they had.",
        f"sum by (le) (increase(shoal_batch_rows_bucket{{{MODEL}}}[{WINDOW}]))",
        width=8,
    ),
    lines(
        "Rows waiting for a run",
        "none",
        "In all queues of a model version. Rows that cannot make the deadline are refused with 429.",
        Query(f"sum by (model, version) (shoal_queued_rows{{{MODEL}}})", "{{model}} {{version}}"),
    ),
    lines(
        "Runs that failed",
        "ops",
        "Raised, or gave no answer; a failed batch is run again row by row.",
        Query(f"sum by (model, version) ({rate('shoal_model_failures_total', MODEL)})", "{{model}} {{version}}"),
        width=12,
    ),
    lines(
        "Time computing",
        "none",
        "Seconds of model runs in a second, summed over all workers: how many cores' worth the models take.",
        Query(f"sum by (model, version) ({rate('shoal_model_run_seconds_sum', MODEL)})", "{{model}} {{version}}"),
        width=12,
        stacked=True,
    ),
)

LOG = (
    lines(
        "Rows made durable",
        ROWS_PER_SECOND,
        "Before their reply left, by where: postgres, or the spool while Postgres is away.",
        Query(f"sum by (sink) ({rate('shoal_log_rows_total')})", "{{sink}}"),
        Query(f"sum({rate('shoal_spool_replayed_rows_total')})", "replayed from the spool"),
    ),
    lines(
        "Commit time",
        "s",
        "One group commit, p50 and p99. Every prediction waits for one, so this is the floor of its latency.",
        *(
            Query(quantile(q, "shoal_log_commit_seconds", "sink"), f"{{{{sink}}}} {name}")
            for q, name in ((0.5, "p50"), (0.99, "p99"))
        ),
    ),
    lines(
        "Rows in a commit",
        "none",
        "Rows that shared one commit: mean and p99. It grows with load, and that is why commits do not.",
        Query(f"sum({rate('shoal_log_group_rows_sum')}) / (sum({rate('shoal_log_group_rows_count')}) > 0)", "mean"),
        Query(f"histogram_quantile(0.99, sum by (le) ({rate('shoal_log_group_rows_bucket')}))", "p99"),
    ),
    states(
        "Postgres, as replicas see it",
        "away: this replica's rows go to the spool.",
        {1: ("up", GREEN), 0: ("away", RED)},
        Query("shoal_log_postgres_up", "{{instance}}"),
    ),
    lines(
        "Spool depth",
        "none",
        "Rows that wait for Postgres, durable and not yet in `predictions`. Grows only while Postgres is away.",
        Query("job:shoal_spool_rows:max", "rows"),
    ),
    lines(
        "Commits that failed",
        "ops",
        "postgres: the rows went to the spool; spool: their requests got a 503.",
        Query(f"sum by (sink) ({rate('shoal_log_failures_total')})", "{{sink}}"),
    ),
    lines(
        "Postgres connections",
        "none",
        "By state, and the limit. Each worker holds a pool; at the limit new replicas spool.",
        Query("sum by (state) (pg_stat_activity_count) > 0", "{{state}}"),
        Query("pg_settings_max_connections", "limit"),
    ),
    lines(
        "Postgres transactions",
        "ops",
        "Commits and rollbacks in `predictions`.",
        Query(rate("pg_stat_database_xact_commit", 'datname="predictions"'), "commits"),
        Query(rate("pg_stat_database_xact_rollback", 'datname="predictions"'), "rollbacks"),
    ),
    lines(
        "Size of the log",
        "bytes",
        "The whole database on disk. Retention drops partitions, so it levels off.",
        Query('pg_database_size_bytes{datname="predictions"}', "predictions"),
    ),
)

LIMITS = (
    lines(
        "CPU of a replica",
        "none",
        "Cores in use by all its processes, and how many it may have. At the limit, add replicas.",
        Query(rate("shoal_replica_cpu_seconds_total"), "{{instance}}"),
        Query("min(shoal_replica_cpu_limit_cores)", "limit"),
    ),
    lines(
        "Memory of a replica",
        "bytes",
        "Of all its processes, shared pages counted once, and how much it may have.",
        Query("shoal_replica_memory_bytes", "{{instance}}"),
        Query("min(shoal_replica_memory_limit_bytes)", "limit"),
    ),
    lines(
        "Requests in flight",
        "none",
        "Being answered now, by replica. Uneven for long: a replica is slow.",
        Query("shoal_requests_in_flight", "{{instance}}"),
    ),
    lines(
        "Time a scrape takes",
        "s",
        "A replica answers /metrics between predictions: when its event loop is busy, this rises first.",
        Query('scrape_duration_seconds{job="api"}', "{{instance}}"),
    ),
    lines(
        "Requests, nginx and replicas",
        "reqps",
        "nginx counts its own answers too (rate limit, no replica, health checks); replicas count retries and scrapes.",
        Query(f"sum({rate('nginx_http_requests_total')})", "nginx"),
        Query(f"sum({rate('shoal_requests_total')})", "replicas"),
    ),
    lines(
        "nginx connections",
        "none",
        "writing: waiting for a replica or replying; waiting: idle keep-alive.",
        *(Query(f"nginx_connections_{state}", state) for state in ("active", "reading", "writing", "waiting")),
    ),
    lines(
        "Redis",
        "none",
        "Cores in use (it has one thread for commands, so 1 is its limit), and its clients.",
        Query(f"{rate('redis_cpu_user_seconds_total')} + {rate('redis_cpu_sys_seconds_total')}", "cores"),
        Query("redis_connected_clients", "clients"),
    ),
    lines(
        "Postgres connections in use",
        "percentunit",
        "Of max_connections. Times replicas and workers, the pools must stay below.",
        Query("sum(pg_stat_database_numbackends) / max(pg_settings_max_connections)", "in use"),
        top=1,
    ),
    states(
        "What is watched",
        "Whether each target answered its last scrape, and whether the exporters reach what they watch.",
        {1: ("up", GREEN), 0: ("down", RED)},
        Query("min by (job) (up)", "{{job}} answers Prometheus"),
        Query("nginx_up", "nginx answers its exporter"),
        Query("redis_up", "redis answers its exporter"),
        Query("pg_up", "postgres answers its exporter"),
    ),
)

JOBS = (
    stat(
        "Workers up",
        "none",
        "Workers of jobs that answered their last scrape. Without one, jobs are taken in and wait.",
        'count(up{job="worker"} == 1) or vector(0)',
        (None, RED),
        (1, GREEN),
    ),
    stat(
        "Rows waiting",
        "short",
        "Rows in chunks that no worker has taken yet, of all jobs that were accepted.",
        'max(shoal_job_backlog_rows{job="worker"})',
    ),
    stat(
        "Standing still for",
        "s",
        "Since the unfinished job that stands still for longest was accepted, or got on.",
        'max(shoal_job_oldest_seconds{job="worker"})',
        (None, GREEN),
        (60, YELLOW),
        (600, RED),
    ),
    stat(
        "Rows of jobs",
        ROWS_PER_SECOND,
        "Rows of jobs settled a second, by all workers.",
        f"sum({rate('shoal_job_rows_total')})",
    ),
    stat(
        "Dead letters",
        "none",
        "Chunks that were given up, and are in the broker's dead-letter queue: see the runbook of JobChunksDead.",
        'max(shoal_job_dead_letters{job="worker"})',
        (None, GREEN),
        (1, RED),
    ),
    stat(
        "Broker",
        "none",
        "1 while every worker has the message broker.",
        'min(shoal_job_broker_up{job="worker"})',
        (None, RED),
        (1, GREEN),
    ),
    lines(
        "Chunks by state",
        "none",
        "Waiting, in a worker's hands, and given up. Waiting ones wait in Postgres, and few of them in the broker too.",
        Query("state:shoal_job_backlog_chunks:max", "{{state}}"),
    ),
    lines(
        "Chunks by outcome",
        "suffix: chunks/s",
        "done; retried after a failure; stale, when another worker had it by then; needless messages; dead ones.",
        Query(f"sum by (outcome) ({rate('shoal_job_chunks_total')})", "{{outcome}}"),
    ),
    lines(
        "A chunk takes",
        "s",
        "From taking a chunk to its commit: model, cache and log together.",
        Query(mean("shoal_job_chunk_seconds", "job"), "mean"),
    ),
    lines(
        "Left to predictions",
        "percentunit",
        "Share of their time in which workers pause, because single predictions are asked for: see SHOAL_JOB_SHARE.",
        Query(f"avg({rate('shoal_job_pause_seconds_total')})", "pauses"),
    ),
    lines(
        "Callbacks",
        "suffix: /s",
        "Attempts to report the end of a job: delivered, failed and to be tried again, given up.",
        Query(f"sum by (outcome) ({rate('shoal_job_callbacks_total')})", "{{outcome}}"),
    ),
)

ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    ("Is it answering?", ANSWERING),
    ("Is it fast?", FAST),
    ("Where does the time go?", STAGES),
    ("Does the cache work?", CACHE),
    ("What do the models do?", MODELS),
    ("Is every answer logged?", LOG),
    ("Do jobs get on?", JOBS),
    ("How near is the limit?", LIMITS),
)


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana 12 reads it."""
    return {
        "uid": UID,
        "title": "Serving",
        "description": "Written by grafana/serving.py; changes made here are overwritten.",
        "tags": ["shoal"],
        "schemaVersion": 41,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,  # one crosshair over all panels: what happened at that moment elsewhere?
        "time": {"from": "now-15m", "to": "now"},
        "refresh": "5s",
        "timezone": "browser",
        "timepicker": {"refresh_intervals": ["5s", "10s", "30s", "1m", "5m"]},
        "templating": {
            "list": [
                variable("model", "Model", "label_values(shoal_model_info, model)"),
                variable("version", "Version", 'label_values(shoal_model_info{model=~"$model"}, version)'),
            ]
        },
        "annotations": {
            "list": [
                {
                    "name": "Replicas",
                    "datasource": DATASOURCE,
                    "enable": True,
                    "iconColor": "blue",
                    "expr": "changes(job:up:count[15s]) > 0",
                    "titleFormat": "Replicas came or went",
                }
            ]
        },
        "links": [],
        "panels": laid_out(ROWS),
    }


def text() -> str:
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
