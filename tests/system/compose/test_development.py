"""`docker compose up --build --scale api=3` and everything that may happen to it: scaled, killed, restarted, stopped.

One stack for the whole module; the tests are one story, in order.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from grafana.check_panels import failures
from tests.load import Load, Report
from tests.servers import eventually
from tests.system.compose.stack import Stack

SERVICES = [
    "api",
    "grafana",
    "nginx",
    "nginx-exporter",
    "postgres",
    "postgres-exporter",
    "prometheus",
    "redis",
    "redis-exporter",
    "rabbitmq",
    "worker",
    "courier",
]
# Their images have no shell to run a check in; Prometheus checks them.
WITHOUT_A_CHECK = {"nginx-exporter", "redis-exporter"}

PREDICT = (
    "curl -X POST http://localhost:8000/predict "
    '-H "Content-Type: application/json" -d \'{"features": [1.0, 2.0, 3.0]}\''
)


def test_every_service_works_and_there_are_three_replicas(stack: Stack) -> None:
    for service in SERVICES:
        containers = stack.containers(service)
        assert len(containers) == (3 if service == "api" else 1), service
        for container in containers:
            assert stack.is_healthy(container), service
            assert ("Health" in stack.inspect(container)["State"]) == (service not in WITHOUT_A_CHECK), service


def test_the_transcript_works_word_for_word(stack: Stack) -> None:
    assert json.loads(stack.typed("curl http://localhost:8000/health"))["status"] == "ok"

    answers = [json.loads(stack.typed(PREDICT))]

    def cached() -> bool:
        answers.append(json.loads(stack.typed(PREDICT)))
        return bool(answers[-1]["cached"])

    # Nearly always the second. On a busy machine Redis may take longer than its budget.
    eventually(cached)
    first, *_, second = answers
    assert not first["cached"]
    assert first["id"] != second["id"]
    assert {**first, "id": None, "cached": None} == {**second, "id": None, "cached": None}

    table = stack.typed(
        'docker compose exec postgres psql -U postgres -d predictions -c "SELECT * FROM predictions LIMIT 10;"'
    )
    header = [column.strip() for column in table.splitlines()[0].split("|")]
    assert {"id", "input_data", "prediction", "confidence", "timestamp"} <= set(header)
    assert f"({min(len(answers), 10)} rows)" in table
    assert first["id"] in table
    assert second["id"] in table

    # One key for the two equal rows: its answer came from the model once.
    assert stack.typed('docker compose exec redis redis-cli KEYS "*"').count("shoal:penguins:2:") == 1

    assert "up" in stack.typed("curl -s http://localhost:9090/api/v1/label/__name__/values")


def test_no_container_has_more_rights_than_it_needs(stack: Stack) -> None:
    for container in stack.containers():
        details = stack.inspect(container)
        service = details["Config"]["Labels"]["com.docker.compose.service"]
        host = details["HostConfig"]
        assert re.fullmatch(r"[1-9]\d*:\d+", details["Config"]["User"]), service
        assert host["ReadonlyRootfs"], service
        assert (host["CapDrop"], host["CapAdd"], host["Privileged"]) == (["ALL"], None, False), service
        assert host["SecurityOpt"] == ["no-new-privileges:true"], service
        assert (host["PidMode"], host["IpcMode"], host["NetworkMode"]) != ("host", "host", "host"), service
        # What the kernel says of the process, whatever the files promise.
        status = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{details['State']['Pid']}/status").read_text().splitlines()
        )
        assert "0" not in status["Uid"].split(), service
        assert {int(status[f"Cap{kind}"], 16) for kind in ("Eff", "Prm", "Bnd", "Amb", "Inh")} == {0}, service
        assert status["NoNewPrivs"] == "1", service


def test_nothing_can_be_written_into_a_container(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "planted").touch()
    for container in stack.containers():
        service = stack.inspect(container)["Config"]["Labels"]["com.docker.compose.service"]
        with pytest.raises(AssertionError, match="read-only"):
            stack.shell(
                f"docker cp {tmp_path}/planted {container}:/planted"
            )  # the engine itself, with or without a shell
        if service in WITHOUT_A_CHECK:
            continue
        # From inside, where code, configuration and programs lie, what is mounted from the clone included.
        for folder in ("/", "/etc", "/usr", "/srv", "/srv/api", "/srv/nginx", "/venv", "/etc/prometheus"):
            said = stack.shell(
                f"docker exec {container} sh -c '[ ! -d {folder} ] || touch {folder}/planted' 2>&1 || true"
            )
            exists = stack.shell(f"docker exec {container} sh -c '[ -d {folder} ] && echo yes || true'").strip()
            assert not exists or "Read-only file system" in said or "Permission denied" in said, f"{service} {folder}"


def test_a_replica_has_an_admin_token_of_its_own_and_the_command_finds_it(stack: Stack) -> None:
    said = stack.shell("docker compose exec -T api python -m api flush penguins")
    assert said == "flushed all versions of penguins: 7 workers left its answers behind, 0 hang\n"
    tokens = set()
    for replica in stack.containers("api"):
        assert stack.shell(f"docker exec {replica} stat -c %a /run/shoal/admin_token").strip() == "600"
        tokens.add(stack.shell(f"docker exec {replica} cat /run/shoal/admin_token"))
    assert len(tokens) == 3
    ask = (
        "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8000); c.request('POST', '/admin/cache/flush');"
        " print(c.getresponse().status)"
    )
    assert stack.shell(f'docker compose exec -T api python -c "{ask}"').strip() == "401"


def test_the_world_is_out_of_reach_for_a_replica(stack: Stack) -> None:
    # No route and not only no answer: the backend network is internal.
    routes = stack.shell("docker compose exec api cat /proc/net/route")
    assert not re.search(r"^\w+\s+00000000\s", routes, re.MULTILINE), "a default route"


def test_prometheus_sees_every_part(stack: Stack) -> None:
    jobs = {"api", "worker", "courier", "nginx", "redis", "postgres", "prometheus"}
    eventually(lambda: stack.metric("min by (job) (up)") == dict.fromkeys(jobs, 1.0), within_seconds=30)
    eventually(lambda: stack.metric("count by (job) (up{job='api'})") == {"api": 3.0}, within_seconds=30)
    # An exporter that runs may have nothing to export.
    assert stack.metric("nginx_up") == {"nginx": 1.0}
    assert stack.metric("redis_up") == {"redis": 1.0}
    assert stack.metric("pg_up") == {"postgres": 1.0}


def test_every_panel_of_the_dashboard_shows_something_under_load(stack: Stack) -> None:
    prometheus = f"http://127.0.0.1:{stack.ports['PROMETHEUS_PORT']}"

    def complete() -> bool:
        stack.job(rows=10)
        empty = failures(prometheus)
        assert not empty, "\n".join(str(failure) for failure in empty)
        return True

    with stack.load():
        # A rate needs two scrapes, and a recording rule its rate.
        eventually(complete, within_seconds=90, because="no panel is empty")


def test_jobs_survive_their_broker_and_are_shared_by_two_workers(stack: Stack) -> None:
    stack.shell("docker compose kill rabbitmq")
    job = stack.job(rows=100_000)
    stack.shell("docker compose up --detach --wait --no-recreate --scale api=3 --scale worker=2", within_seconds=300)
    assert stack.watch(job) == "done: 100000 of 100000 rows"
    # Both had a part in a second one, and where each gets less of a busy CPU than a replica.
    assert stack.watch(stack.job(rows=200_000)) == "done: 200000 of 200000 rows"
    workers = stack.containers("worker")
    assert [stack.inspect(worker)["HostConfig"]["CpuShares"] for worker in workers] == [128, 128]
    done = "sum by (instance) (shoal_job_rows_total{job='worker', outcome='answered'})"
    eventually(lambda: len([rows for rows in stack.metric(done).values() if rows]) == 2, within_seconds=30)
    stack.shell("docker compose up --detach --wait --no-recreate --scale api=3 --scale worker=1")


def test_nginx_finds_five_replicas_without_a_reload(stack: Stack) -> None:
    [nginx] = stack.containers("nginx")
    processes = stack.shell(f"docker top {nginx} -eo pid,args")

    assert _seen_under_load(stack, until=3) == 3
    stack.shell("docker compose up -d --scale api=5")
    assert _seen_under_load(stack, until=5) == 5

    assert stack.shell(f"docker top {nginx} -eo pid,args") == processes


def test_two_replicas_fewer_cost_no_request(stack: Stack) -> None:
    # Long enough that nginx has asked for the addresses again (every 5 s), and the next test begins with three.
    _survives(stack, lambda: stack.shell("docker compose up -d --scale api=3"), afterwards=900)

    assert len(stack.containers("api")) == 3


def test_a_killed_replica_costs_no_request(stack: Stack) -> None:
    def kill() -> None:
        stack.shell(f"docker kill {stack.containers('api')[0]}")

    _survives(stack, kill)
    assert len(stack.containers("api")) == 2
    stack.shell("docker compose up --detach --scale api=3 --wait")


def test_redis_restarts_without_a_failed_request_and_keeps_its_data(stack: Stack) -> None:
    def keys() -> set[str]:
        return set(stack.shell('docker compose exec redis redis-cli KEYS "*"').split("shoal:")[1:])

    stack.typed(PREDICT)
    eventually(keys)
    kept = keys()

    _survives(stack, lambda: stack.shell("docker compose restart redis"))

    assert kept <= keys()


def test_thirty_seconds_without_redis_cost_no_request(stack: Stack) -> None:
    def outage() -> None:
        stack.shell("docker compose stop redis")
        time.sleep(30)  # the length of the outage
        stack.shell("docker compose start redis")

    _survives(stack, outage)


def test_thirty_seconds_without_postgres_cost_neither_a_request_nor_a_row(stack: Stack) -> None:
    def outage() -> None:
        stack.shell("docker compose stop postgres")
        time.sleep(30)  # the length of the outage
        health = json.loads(stack.shell(f"curl -sf http://127.0.0.1:{stack.ports['HTTP_PORT']}/health"))
        assert health["status"] == "degraded"
        assert health["components"]["spool"]["rows"] > 0
        stack.shell("docker compose start postgres")

    _survives(stack, outage)

    eventually(lambda: stack.metric("sum(shoal_spool_rows)") == {"{}": 0.0}, within_seconds=30)


def test_replicas_restart_one_after_the_other_without_a_failed_request(stack: Stack) -> None:
    def restart() -> None:
        for replica in stack.containers("api"):
            before = stack.inspect(replica)["State"]["StartedAt"]
            started = time.monotonic()
            stack.shell(f"docker restart --time 30 {replica}")
            # Drained, not killed when patience ended.
            assert time.monotonic() - started < 25
            stack.wait_until_healthy(replica)
            assert stack.inspect(replica)["State"]["StartedAt"] > before

    _survives(stack, restart)


def test_a_deploy_replaces_every_replica_without_a_failed_request(stack: Stack) -> None:
    before = stack.containers("api")

    _survives(stack, lambda: stack.shell("api/roll", within_seconds=300))

    after = stack.containers("api")
    assert len(after) == len(before)
    assert not set(after) & set(before)


def test_nothing_is_left_after_down_with_volumes(stack: Stack) -> None:
    stack.typed("docker compose down")
    assert "_postgres" in stack.leftovers(), "down alone keeps the volumes"
    stack.typed("docker compose down -v")
    assert stack.leftovers() == ""


def _survives(stack: Stack, disturb: Callable[[], object], *, afterwards: int = 200) -> Report:
    """Disturb the stack under load. Every request is answered 200, and has its row, exactly once."""
    known = set(stack.query("SELECT id FROM predictions"))
    with stack.load() as load:
        _keeps_answering(load)
        disturb()
        _keeps_answering(load, afterwards)
    print(load.report)
    assert load.report.failures == []
    answered = set(load.report.ids)
    assert len(answered) == len(load.report.ids), "no id is given twice"

    def rows() -> list[str]:
        return [id for id in stack.query("SELECT id FROM predictions") if id not in known]

    # Those of the spool follow when Postgres is back.
    eventually(lambda: len(rows()) >= len(answered), within_seconds=60, because="every answer has its row")
    assert sorted(rows()) == sorted(answered)
    return load.report


def _keeps_answering(load: Load, requests: int = 200) -> None:
    goal = load.answered + requests
    eventually(lambda: load.answered >= goal, within_seconds=60, because="the load goes on")


def _seen_under_load(stack: Stack, *, until: int) -> int:
    """How many replicas give answers, as nginx logs it: `until`, or what it was after 30 s."""
    # The engine's clock, to a fraction: what was logged before does not count.
    since = stack.shell("date --utc +%Y-%m-%dT%H:%M:%S.%NZ").strip()
    with stack.load():
        eventually(
            lambda: len(stack.upstreams(since)) >= until, within_seconds=30, because=f"{until} replicas give answers"
        )
    return len(stack.upstreams(since))
