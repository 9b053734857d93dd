"""Imported by Python itself as it starts, where this folder is on PYTHONPATH: a wall clock that is wrong by as many
seconds as the file SHOAL_CHAOS_CLOCK says. Spans of time stay true, as on a machine whose clock is set."""

import os
import time

_file = os.environ["SHOAL_CHAOS_CLOCK"]
_time, _time_ns, _monotonic = time.time, time.time_ns, time.monotonic
_looked, _wrong = 0.0, 0.0


def _wrong_seconds() -> float:
    global _looked, _wrong
    if _monotonic() - _looked > 0.1:
        _looked = _monotonic()
        with open(_file) as file:
            _wrong = float(file.read())
    return _wrong


time.time = lambda: _time() + _wrong_seconds()
time.time_ns = lambda: _time_ns() + int(_wrong_seconds() * 1e9)
