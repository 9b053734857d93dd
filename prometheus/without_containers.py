"""Rewrites prometheus.yaml for replicas that are no containers; what changes is said at its top. Used by start."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent


def without_containers(
    config: dict[str, Any], replicas: list[str], workers: list[str], prometheus: str
) -> dict[str, Any]:
    """replicas, workers, prometheus: host:port of what is to be scraped."""
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    for name, addresses in (("api", replicas), ("worker", workers)):
        del jobs[name]["dns_sd_configs"]
        jobs[name]["static_configs"] = [
            {"targets": [address], "labels": {"instance": f"{name}.{number}"}}
            for number, address in enumerate(addresses, 1)
        ]
    jobs["prometheus"]["static_configs"] = [{"targets": [prometheus], "labels": {"instance": "prometheus"}}]
    return config | {
        "rule_files": [str(HERE / rules) for rules in config["rule_files"]],
        # The others come as containers only.
        "scrape_configs": [jobs["api"], jobs["worker"], jobs["prometheus"]],
    }


if __name__ == "__main__":
    _, replicas, workers, prometheus = sys.argv
    config = yaml.safe_load((HERE / "prometheus.yaml").read_text())
    yaml.safe_dump(
        without_containers(config, replicas.split(","), workers.split(","), prometheus), sys.stdout, sort_keys=False
    )
