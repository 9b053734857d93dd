"""One worker of jobs as a plain process: its settings, then the program as in the image. For api/start-worker and the
launcher.

VAR, SOCKETS  as in replica.py
SHOAL_BIND    where it says how it is doing (default 127.0.0.1:8090)

Every SHOAL_ variable of settings.py holds here too.
"""

from __future__ import annotations

import os
from pathlib import Path

from api.local import replica


def main() -> None:
    """Returns when it was asked to stop, and has."""
    for name, value in (replica.settings(os.environ) | {"SHOAL_BIND": "127.0.0.1:8090"}).items():
        os.environ.setdefault(name, value)
    Path(os.environ["SHOAL_SPOOL_DIR"]).mkdir(parents=True, exist_ok=True)

    from api.job_worker.__main__ import main as work  # which reads the environment when imported

    work()


if __name__ == "__main__":
    main()
