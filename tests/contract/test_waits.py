"""The ladder of waits: whoever waits outside waits longer than whoever works inside, so that the one who gives up first
can still say so. Each number is read off the one place where it is set."""

from __future__ import annotations

import re

from api.settings import Settings
from tests.contract.files import ROOT, compose
from tests.load import Load

NGINX = ROOT / "nginx" / "nginx.conf"
API_CONF = ROOT / "nginx" / "conf.d" / "api.conf"
GUNICORN = ROOT / "api" / "gunicorn.conf.py"


def setting(name: str) -> float:
    return float(Settings.model_fields[name].default)


def directive(name: str, text: str) -> float:
    """The seconds of the one nginx directive of that name."""
    [seconds] = re.findall(rf"^\s*{name} (\d+)s;", text, re.MULTILINE)
    return float(seconds)


def of_replicas() -> tuple[str, str]:
    """How nginx passes requests on: the first time, and again."""
    first, again = API_CONF.read_text().split("location @again {")
    return first, again


def gunicorn(name: str) -> float:
    [seconds] = re.findall(rf"^{name} = (\d+)\b", GUNICORN.read_text(), re.MULTILINE)
    return float(seconds)


def stop_grace_period(service: str) -> float:
    return float(compose()["services"][service]["stop_grace_period"].removesuffix("s"))


def client_timeout() -> float:
    """What the load generator waits for an answer."""
    [seconds] = re.findall(
        r"^CLIENT_TIMEOUT_SECONDS = (\d+)\b",
        "\n".join(path.read_text() for path in (ROOT / "loadtest").glob("*.py")),
        re.MULTILINE,
    )
    return float(seconds)


def upstreams() -> list[str]:
    """The blocks of nginx that name the replicas."""
    text = "\n".join(path.read_text() for path in sorted(API_CONF.parent.glob("*.conf")))
    blocks: list[str] = re.findall(r"^upstream \w+ \{.*?^\}", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    return blocks


READ, READ_AGAIN = (directive("proxy_read_timeout", part) for part in of_replicas())
RETRY, RETRY_AGAIN = (directive("proxy_next_upstream_timeout", part) for part in of_replicas())


def test_a_request_is_given_up_from_the_inside_out() -> None:
    # A lookup that is given up leaves time for the run it was to spare; half the deadline is more than any run.
    assert (
        client_timeout()
        > READ
        > setting("deadline_seconds")
        > setting("log_commit_timeout_seconds")
        > setting("redis_budget_seconds")
    )
    assert setting("deadline_seconds") > setting("redis_budget_seconds") + setting("log_commit_timeout_seconds")


def test_a_second_try_ends_before_the_client_gives_up() -> None:
    # The last try starts before proxy_next_upstream_timeout, and takes a deadline at most.
    assert client_timeout() > RETRY + setting("deadline_seconds")
    assert client_timeout() > RETRY + RETRY_AGAIN + READ_AGAIN


def test_tests_wait_as_long_as_clients() -> None:
    assert client_timeout() == Load.TIMEOUT_SECONDS


def test_a_replica_is_stopped_from_the_inside_out() -> None:
    assert (
        stop_grace_period("api")
        > setting("graceful_timeout_seconds")
        > setting("drain_seconds")
        > setting("deadline_seconds")
    )


def test_nginx_finishes_its_requests_before_it_is_killed() -> None:
    assert stop_grace_period("nginx") > directive("worker_shutdown_timeout", NGINX.read_text()) > READ


def test_nginx_is_the_one_that_hangs_up_on_an_idle_connection() -> None:
    # The other way round, it would now and then send a request into a connection that is just being closed.
    for upstream in upstreams():
        assert gunicorn("keepalive") > directive("keepalive_timeout", upstream)


def test_a_worker_that_runs_a_model_is_not_taken_for_dead() -> None:
    assert gunicorn("timeout") > setting("deadline_seconds")


def test_bodies_are_limited_alike() -> None:
    # Not a wait, but the other number that two files must agree on.
    [megabytes] = re.findall(r"^\s*client_max_body_size (\d+)m;", API_CONF.read_text(), re.MULTILINE)
    assert int(megabytes) * 1024 * 1024 == setting("max_body_bytes")


def test_postgres_takes_every_connection_that_the_replicas_may_open() -> None:
    configuration = (ROOT / "db" / "postgresql.conf").read_text()
    [most] = re.findall(r"^max_connections = (\d+)", configuration, re.MULTILINE)
    log, jobs = setting("postgres_pool_size") + 1, setting("job_pool_size")  # the one more follows flushes
    connections = (log + jobs) * setting("workers")
    # A worker of jobs has all that once, and for each lane one, two more, and one that listens.
    worker = log + jobs + setting("job_lanes") + 3
    # Ten replicas by default with a worker, and some left for the exporter and for people.
    assert int(most) >= 10 * connections + worker + 10


def test_the_readme_has_the_same_ladder() -> None:
    ladder = (ROOT / "README.md").read_text().split("## The ladder of waits")[1].split("\n## ")[0]
    waits = [
        client_timeout(),
        READ,
        setting("deadline_seconds"),
        setting("log_commit_timeout_seconds"),
        setting("redis_budget_seconds"),
    ]
    assert re.findall(r"\| ([\d.]+) \|", ladder) == [f"{wait:g}" for wait in waits]
