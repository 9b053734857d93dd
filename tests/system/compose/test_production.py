"""compose.prod.yaml, started once with generated secrets and a certificate, as its first lines say."""

from __future__ import annotations

import json
import re
from functools import partial

import pytest

from tests.servers import eventually
from tests.system.compose.stack import Stack

ROW = '-H "Content-Type: application/json" -d \'{"features": [39.1, 18.7, 181]}\''


@pytest.fixture(scope="module")
def key(production: Stack) -> str:
    """Made when the stack runs already."""
    assert _predict(production, "none") == 401, "a file that is not there lets nobody in"
    added = production.shell("api/keys add tester")
    [key] = re.findall(r"^shoal_\S{43}$", added, re.MULTILINE)
    # Each worker reads the file for itself, four times a second: when all of these are let in, all workers know it.
    eventually(lambda: all(_predict(production, key) == 200 for _ in range(30)), within_seconds=30)
    return str(key)


def _predict(production: Stack, key: str) -> int:
    return _status(production, f"http://localhost:{production.ports['HTTP_PORT']}/predict {ROW} -H 'X-API-Key: {key}'")


def _status(production: Stack, request: str) -> int:
    return int(production.shell(f"curl -s -o /dev/null -w '%{{http_code}}' {request}"))


def test_passwords_are_right_everywhere(production: Stack, key: str) -> None:
    # Replicas reach both stores, and so do the exporters.
    url = f"http://localhost:{production.ports['HTTP_PORT']}/health"
    health = json.loads(production.shell(f"curl -sf {url} -H 'Authorization: Bearer {key}'"))
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


def test_a_job_gets_by_the_password_of_the_broker(production: Stack, key: str) -> None:
    assert production.watch(production.job(rows=5000, key=key), key=key) == "done: 5000 of 5000 rows"
    users = production.shell("docker compose exec -T rabbitmq rabbitmqctl -q list_users")
    assert [line.split()[0] for line in users.splitlines()[1:]] == ["shoal"]  # and no guest


def test_https_is_spoken_when_there_is_a_certificate(production: Stack, key: str) -> None:
    certificate = production.environment["TLS_DIR"] + "/tls.crt"
    url = f"https://localhost:{production.ports['HTTPS_PORT']}/predict"
    answer = production.shell(
        f"curl -sf --cacert {certificate} {url} {ROW} -H 'X-API-Key: {key}' -w '\\n%{{http_version}}'"
    )
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


def test_a_key_is_locked_out_while_the_stack_runs(production: Stack, key: str) -> None:
    [second] = re.findall(r"^shoal_\S{43}$", production.shell("api/keys add second"), re.MULTILINE)
    eventually(lambda: _predict(production, second) == 200)

    assert production.shell("api/keys list").count("\n") == 2
    assert "revoked 1 key of second" in production.shell("api/keys revoke second")

    eventually(lambda: _predict(production, second) == 401)
    assert _predict(production, key) == 200


def test_the_admin_token_is_the_file_s_and_the_command_finds_it(production: Stack) -> None:
    said = production.shell("docker compose exec -T api python -m api flush penguins")
    assert said == "flushed all versions of penguins: 5 workers left its answers behind, 0 hang\n"


def test_what_is_for_those_inside_is_out_of_reach_with_every_secret(production: Stack, key: str) -> None:
    token = production.shell(f"cat {production.environment['SECRETS_DIR']}/admin_token").strip()
    for path in ("/metrics", "/admin/cache/flush", "/models/penguins/rollback", "//metrics", "/x/../metrics"):
        for secret in (key, token):
            url = f"--path-as-is http://localhost:{production.ports['HTTP_PORT']}{path}"
            assert _status(production, f"-X POST {url} -H 'X-API-Key: {secret}'") == 404
    for service in ("postgres", "redis", "prometheus", "api"):
        for container in production.containers(service):
            assert not any(production.inspect(container)["NetworkSettings"]["Ports"].values()), service


def test_no_secret_is_seen_from_outside_a_container_or_in_an_answer(production: Stack, key: str) -> None:
    folder = production.environment["SECRETS_DIR"]
    files = f"{folder}/*_password {folder}/admin_token {folder}/callback_secret"
    secrets = [*production.shell(f"cat {files}").split(), key]
    assert len(secrets) == 7
    seen = ""
    for container in production.containers():
        seen += json.dumps(production.inspect(container)) + production.shell(f"docker top {container} -eo pid,args")
        seen += production.shell(f"docker logs {container} 2>&1")
    url = f"http://localhost:{production.ports['HTTP_PORT']}"
    for request in (
        f"{url}/openapi.json",
        f"{url}/health",
        f"{url}/nowhere",
        f"-X TRACE {url}/",
        f"{url}/predict -d x",
    ):
        for header in ("", f"-H 'X-API-Key: {key}'", "-H 'X-API-Key: wrong'"):
            seen += production.shell(f"curl -s -i {request} {header}")
    assert "openapi" in seen
    assert not any(secret in seen for secret in secrets)


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
