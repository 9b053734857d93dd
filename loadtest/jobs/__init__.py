"""What jobs cost, measured on a stack of its own: `python -m loadtest.jobs`.

throughput.py: a job of a million rows against the same predictor and log in a loop. latency.py: single predictions
beside a job. stack.py starts it, client.py asks it. What jobs survive is in loadtest/chaos/jobs.py.
"""
