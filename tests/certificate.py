"""A certificate for tests of TLS."""

from __future__ import annotations

import subprocess
from pathlib import Path


def certify_localhost(folder: Path) -> tuple[Path, Path]:
    """Makes a certificate for localhost that nobody but itself vouches for. Returns its file and that of its key."""
    certificate, key = folder / "tls.crt", folder / "tls.key"
    subprocess.run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost "
        f"-addext subjectAltName=DNS:localhost -keyout {key} -out {certificate}",
        shell=True,
        check=True,
        capture_output=True,
    )
    return certificate, key
