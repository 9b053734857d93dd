"""compose.prod.yaml, started once with generated secrets and a certificate, as its first lines say."""

from __future__ import annotations

import json
from functools import partial

import pytest

from tests.servers import eventually
from tests.system.compose.stack import Stack

ROW = '-H "Content-Type: application/json" -d \'{"features": [39.1, 18.7, 181]}\''


def test_passwords_are_right_everywhere(production: Stack) -> None:
    # Replicas reach both stores, and so do the exporters.
    health = json.loads(production.shell(f"curl -sf http://localhost:{production.ports['HTTP_PORT']}/health"))
    assert health["status"] == "ok"
    for exported in ("redis_up", "pg_up", "nginx_up"):
        eventually(partial(_reads_one, production, exported), because=f"{exported} is 1")


def test_the_stores_let_nobody_in_without_a_password(production: Stack) -> None:
    assert "NOAUTH" in production.shell('docker compose exec redis redis-cli KEYS "*"')
    for password in ("", "wrong", "postgres"):
        with pytest.raises(AssertionError, match="password"):
            production.shell(
                f"docker compose exec -e PGPASSWORD={password} postgres psql -w -h postgres -U postgres -c 'SELECT 1'"
            )


def test_https_is_spoken_when_there_is_a_certificate(production: Stack) -> None:
    certificate = production.environment["TLS_DIR"] + "/tls.crt"
    url = f"https://localhost:{production.ports['HTTPS_PORT']}/predict"
    answer = production.shell(f"curl -sf --cacert {certificate} {url} {ROW} -w '\\n%{{http_version}}'")
    body, version = answer.splitlines()
    assert json.loads(body)["prediction"] in (0, 1, 2)
    assert version == "2"


def test_a_replica_counts_the_cpus_it_may_use_not_those_of_the_machine(production: Stack) -> None:
    count = "from api.models.cgroups import cpus; print(cpus())"
    assert production.shell(f"docker compose exec -T api python -c '{count}'").split() == ["1.0"]  # API_CPUS


def test_only_nginx_is_published_and_grafana_on_loopback(production: Stack) -> None:
    published = {
        production.inspect(container)["Config"]["Labels"]["com.docker.compose.service"]: bindings
        for container in production.containers()
        if (bindings := production.inspect(container)["HostConfig"]["PortBindings"])
    }
    assert set(published) == {"nginx", "grafana"}
    assert set(published["nginx"]) == {"80/tcp", "443/tcp"}
    assert {binding["HostIp"] for binding in published["grafana"]["3000/tcp"]} == {"127.0.0.1"}


def test_no_password_is_seen_from_outside_a_container(production: Stack) -> None:
    folder = production.environment["SECRETS_DIR"]
    passwords = production.shell(f"cat {folder}/*_password").split()
    assert len(passwords) == 3
    for container in production.containers():
        seen = json.dumps(production.inspect(container)) + production.shell(f"docker top {container} -eo pid,args")
        seen += production.shell(f"docker logs {container} 2>&1")
        assert not any(password in seen for password in passwords)


def test_limits_and_restarts_are_in_force(production: Stack) -> None:
    for container in production.containers():
        details = production.inspect(container)
        host = details["HostConfig"]
        assert host["RestartPolicy"]["Name"] == "unless-stopped"
        assert host["Memory"] > 0
        assert host["NanoCpus"] > 0
        assert host["PidsLimit"] > 0
        assert host["ReadonlyRootfs"]
        assert not details["State"]["OOMKilled"]


def _reads_one(production: Stack, series: str) -> bool:
    """Whether that is what Prometheus last read; asked from within, as it is not published."""
    url = f"http://127.0.0.1:9090/api/v1/query?query={series}"
    answer = json.loads(production.shell(f"docker compose exec prometheus wget -q -O - '{url}'"))
    return [result["value"][1] for result in answer["data"]["result"]] == ["1"]
