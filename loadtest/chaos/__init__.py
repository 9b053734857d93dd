"""`make chaos`: what Shoal promises, held against what happens when its parts are broken one after another.

questions.py says what request number n asks, load.py sends them at a steady rate, ledger.py keeps what became of each,
reconcile.py compares that with the prediction log, oracle.py with the models. scenario.py says what a bad day is and
what it came to; the days are in overload.py and its neighbours, all of them on one list in scenarios.py. Those of jobs
are in jobs.py, and what became of each row of theirs in job_ledger.py.

The servers are those of the tests (tests/servers.py, tests/stack.py): real ones, each of which can be broken by itself.
"""
