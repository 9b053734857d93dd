"""`make fuzz`: as many generated requests as asked for, a line a round, and a non-zero exit status on the first
failure."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.system.fuzz.run import Fuzzed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.system.fuzz", description=__doc__)
    parser.add_argument("--cases", type=lambda text: int(text or 20_000), default=20_000)
    parser.add_argument("--seed", type=lambda text: int(text or random.randrange(1_000_000)), default="")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="shoal-fuzz-"))
    fuzzed = Fuzzed(folder)
    try:
        fuzzed.start()
        return _run(fuzzed, options.cases, options.seed)
    finally:
        fuzzed.stack.close()
        shutil.rmtree(folder)


def _run(fuzzed: Fuzzed, cases: int, seed: int) -> int:
    before, started, generated = fuzzed.usage(), time.monotonic(), 0
    for each in fuzzed.rounds(cases, seed):
        generated += each.cases
        verdict = "passed" if each.passed else "FAILED"
        print(f"seed {each.seed}  {each.through:8}  {each.cases:6} cases  {verdict}", flush=True)
        if not each.passed:
            print(each.output)
            return 1
    troubles = fuzzed.troubles(before)
    print(f"{generated} cases in {time.monotonic() - started:.0f} s; {before}, then {fuzzed.usage()}")
    print("\n".join(troubles) or "no server error, nothing in flight, and the next prediction is answered")
    return int(bool(troubles))


if __name__ == "__main__":
    sys.exit(main())
