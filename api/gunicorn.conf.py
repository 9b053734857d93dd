# ruff: noqa: N999  the name that gunicorn looks for
"""How a replica starts, forks and stops. The numbers come from settings.py, where their reasons are."""

import gc
import itertools
import os
from pathlib import Path
from typing import Any

_metrics_dir = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
if _metrics_dir is not None:
    Path(_metrics_dir).mkdir(parents=True, exist_ok=True)  # before the metrics are imported: they open files in it

from api.logs import dict_config  # noqa: E402
from api.metrics import SLOT  # noqa: E402
from api.settings import Settings  # noqa: E402

_settings = Settings()

bind = _settings.bind
workers = _settings.workers
worker_class = "api.worker.DrainingWorker"
# Loaded before the fork: torch and the weights are then shared, copy-on-write. Measured with four workers: 413 MB
# instead of 672 MB. Nothing may run in the parent: a parallel op there hangs the children.
preload_app = True
timeout = 30  # seconds without a heartbeat until a worker is killed; above the longest run of a model on the loop
max_requests = _settings.max_requests
max_requests_jitter = max_requests // 10
graceful_timeout = _settings.graceful_timeout_seconds
keepalive = 75  # seconds; above keepalive_timeout in nginx's upstream (60), so nginx is the one that hangs up
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108  a heartbeat must not wait for a disk
control_socket_disable = True  # a second way in, which nothing here uses
logconfig_dict = dict_config(_settings.log_level)

# A worker's metrics live in the files of its slot, and the worker that replaces it counts on in them: so there are
# never more files than slots, and no counter goes backwards. See metrics.py. A worker carries its slot itself: on
# SIGHUP gunicorn reads this file anew while the old workers still count, so nothing may be remembered here.


def on_starting(server: Any) -> None:
    if _metrics_dir is not None:
        # Files of the previous run would be added to ours. The parent's own go too, made as it imported the metrics:
        # their zeroes would be the minimum of every gauge. It counts nothing itself.
        for stale in Path(_metrics_dir).glob("*.db"):
            stale.unlink()


def when_ready(server: Any) -> None:
    # What the parent has made lives for ever: out of the collector's sight, no worker scans it, and so copies it.
    gc.collect()
    gc.freeze()
    # A request leaves no cycles behind, and hardly any object that outlives it. The default, a look after every 700
    # objects, took a tenth of a cached prediction's CPU time.
    gc.set_threshold(50_000, 20, 100)


def pre_fork(server: Any, worker: Any) -> None:
    taken = {other.slot for other in server.WORKERS.values()}
    worker.slot = next(slot for slot in itertools.count() if slot not in taken)


def post_fork(server: Any, worker: Any) -> None:
    os.environ[SLOT] = str(worker.slot)


def child_exit(server: Any, worker: Any) -> None:
    # What the benchmark measures beside us has this file, too, and no models.
    circuits = getattr(getattr(server.app.wsgi(), "state", None), "circuits", None)
    if circuits is not None:
        circuits.worker_died(worker.slot)
    if _metrics_dir is not None:
        # Its gauges end with it; its counters and histograms stay.
        for gauges in Path(_metrics_dir).glob(f"gauge_live*_{worker.slot}.db"):
            gauges.unlink(missing_ok=True)
