"""`python -m loadtest.jobs [throughput] [latency]`: both unless one is named. Exit status 1 if a bar is
missed."""

from __future__ import annotations

import argparse
import statistics
import sys

from loadtest.jobs import latency, throughput
from loadtest.jobs.stack import running

THROUGHPUT_BAR = 0.7
LATENCY_BAR = 1.5


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtest.jobs", description=__doc__)
    parser.add_argument("what", nargs="*", metavar="throughput|latency")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the job, and of the loop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement of latency")
    parser.add_argument("--per-second", type=float, default=200, help="single predictions")
    parser.add_argument("--port", type=int, default=18_300)
    options = parser.parse_args()
    wanted = options.what or ["throughput", "latency"]
    missed = False
    if "throughput" in wanted:
        with running(options.port) as stack:
            loops, jobs = [], []
            for _ in range(options.rounds):
                loops.append(throughput.of_loop(stack, options.rows // 4))
                jobs.append(throughput.of_job(stack, options.rows))
            loop, job = statistics.median(loops), statistics.median(jobs)
            print(f"loop {_all(loops)}, job {_all(jobs)} rows/s; medians' ratio {job / loop:.2f}, bar {THROUGHPUT_BAR}")
            missed |= job / loop < THROUGHPUT_BAR
    if "latency" in wanted:
        with running(options.port) as stack:
            latency.prepare(stack)
            latency.alone(stack, options.seconds / 2, options.per_second)  # warms up what is not warm yet
            without, beside = [], []
            for _ in range(options.rounds):
                without.append(latency.alone(stack, options.seconds, options.per_second) * 1000)
                beside.append(latency.beside_a_job(stack, options.seconds, options.per_second) * 1000)
            ratio = statistics.median(beside) / statistics.median(without)
            print(f"p99 alone {_all(without)}, beside a job {_all(beside)} ms; ratio {ratio:.2f}, bar {LATENCY_BAR}")
            missed |= ratio > LATENCY_BAR
    return int(missed)


def _all(numbers: list[float]) -> str:
    return ", ".join(f"{number:.1f}" if number < 1000 else f"{number:.0f}" for number in numbers)


if __name__ == "__main__":
    sys.exit(main())
