"""What compose.yaml and its two companions promise about every service, read off the files.

That they work is for tests/system/compose; that nobody adds a service which forgets half of this, is for here.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from api.settings import Settings
from tests.contract.files import ROOT, compose

BASE = compose()
SERVICES: dict[str, dict[str, Any]] = BASE["services"]
DEVELOPMENT: dict[str, dict[str, Any]] = compose("compose.override.yaml")["services"]
PRODUCTION: dict[str, dict[str, Any]] = compose("compose.prod.yaml")["services"]
DOCKERFILE = (ROOT / "api" / "Dockerfile").read_text()

# Their images hold one program and no shell; Prometheus checks them from outside.
WITHOUT_A_SHELL = {"nginx-exporter", "redis-exporter"}
STORES = {"postgres", "redis", "rabbitmq", "prometheus", "grafana"}

each_service = pytest.mark.parametrize("name", SERVICES)


@each_service
def test_a_service_that_is_taken_over_finds_nothing_to_use(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"[1-9]\d*:\d+", service["user"]), "a number, and not root's"


@each_service
def test_images_are_pinned(name: str) -> None:
    if "build" in SERVICES[name]:
        images = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    else:
        images = [SERVICES[name]["image"]]
    for image in images:
        assert re.search(r":v?\d+(\.\d+)*(-[a-z.-]+)?$", image), f"{image} moves"


@each_service
def test_a_service_shows_that_it_works(name: str) -> None:
    if name in {"api", "worker", "courier"}:
        assert "healthcheck" not in SERVICES[name]
        assert re.search(r"^HEALTHCHECK .*\\\n\s+CMD .*/health/ready", DOCKERFILE, re.MULTILINE)
    elif name in WITHOUT_A_SHELL:
        assert "healthcheck" not in SERVICES[name]
        jobs = (ROOT / "prometheus" / "prometheus.yaml").read_text()
        assert f"[{name}:" in jobs
    else:
        assert SERVICES[name]["healthcheck"]["start_interval"] == "1s"


@each_service
def test_a_service_waits_until_what_it_needs_works(name: str) -> None:
    for needed, how in SERVICES[name].get("depends_on", {}).items():
        assert needed in SERVICES
        # The exporter of nginx has something to say about one that does not work yet.
        expected = "service_started" if name == "nginx-exporter" else "service_healthy"
        assert how["condition"] == expected


def test_only_nginx_is_reached_from_outside_the_machine() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"nginx": ["${HTTP_PORT:-80}:80"]}
    for service in DEVELOPMENT.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    in_production = {name: service["ports"] for name, service in PRODUCTION.items() if "ports" in service}
    assert set(in_production) == {"nginx", "grafana"}
    assert all(port.startswith("127.0.0.1:") for port in in_production["grafana"])


def test_stores_and_replicas_are_on_the_internal_network_only() -> None:
    assert BASE["networks"]["backend"]["internal"] is True
    inside = {name for name, service in SERVICES.items() if service["networks"] == ["backend"]}
    # What runs models is inside; the courier, which runs none, must reach the outside.
    assert inside == set(SERVICES) - {"nginx", "prometheus", "grafana", "courier"}


def test_every_store_has_a_named_volume() -> None:
    kept = {name for name in STORES for volume in SERVICES[name]["volumes"] if volume.split(":")[0] == name}
    assert kept == STORES
    assert set(BASE["volumes"]) == STORES | {"spool"}


def test_every_setting_reaches_the_replicas() -> None:
    handed_on = set(SERVICES["api"]["environment"])
    settings = {f"SHOAL_{name.upper()}" for name in Settings.model_fields}
    # Decided by the image and compose.yaml: the port that others know, the volume, and passwords, which come as files.
    passwords = {"SHOAL_REDIS_PASSWORD", "SHOAL_POSTGRES_PASSWORD", "SHOAL_BROKER_PASSWORD"}
    fixed = {"SHOAL_BIND", "SHOAL_SPOOL_DIR", "SHOAL_ADMIN_TOKEN_FILE", *passwords}
    assert handed_on == settings - fixed
    assert SERVICES["worker"]["environment"] == SERVICES["courier"]["environment"] == SERVICES["api"]["environment"]


def test_no_default_is_said_twice() -> None:
    # A default here would win over the one in settings.py, and the two would drift apart. Where the stores are is not
    # a default: it is this file's to know.
    said = {name for name, value in SERVICES["api"]["environment"].items() if value is not None}
    assert said == {"SHOAL_REDIS_URL", "SHOAL_POSTGRES_DSN", "SHOAL_BROKER_URL"}


def test_workers_of_jobs_get_less_of_a_busy_cpu_than_replicas() -> None:
    assert SERVICES["worker"]["cpu_shares"] * 8 <= SERVICES["api"].get("cpu_shares", 1024)


def test_no_password_stands_in_a_file() -> None:
    for services in (SERVICES, DEVELOPMENT, PRODUCTION):
        for name, service in services.items():
            for variable, value in (service.get("environment") or {}).items():
                if "PASS" in variable:
                    assert value.startswith("/run/secrets/"), f"{variable} of {name}"


@each_service
def test_in_production_a_service_is_limited_and_started_again(name: str) -> None:
    service = PRODUCTION[name]
    assert service["restart"] == "unless-stopped"
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}


def test_production_takes_secrets_from_files() -> None:
    content = compose("compose.prod.yaml")
    assert all(set(secret) == {"file"} for secret in content["secrets"].values())
    assert content["name"] != BASE["name"], "a volume of development trusts everyone inside"


def test_the_image_needs_no_parser_from_a_registry_and_no_shell_to_start() -> None:
    assert "syntax=" not in DOCKERFILE.splitlines()[0]
    assert re.search(r'^CMD \["python", "-m", "gunicorn"', DOCKERFILE, re.MULTILINE)
    assert re.search(r"^USER [1-9]\d*:\d+$", DOCKERFILE, re.MULTILINE)
