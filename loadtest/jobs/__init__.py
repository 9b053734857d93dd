"""What jobs cost and survive, measured on a stack of its own: `python -m loadtest.jobs`.

throughput.py: a job of a million rows against the same predictor and log in a loop. latency.py: single predictions
beside a job. many.py: a thousand jobs while processes are killed, and every row counted. stack.py starts it, client.py
asks it.
"""
