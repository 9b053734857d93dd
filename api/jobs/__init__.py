"""Predictions of many rows, answered by and by: the truth in Postgres, hints in a message broker.

A replica takes a job in (intake.py, from formats.py's rows) and puts it into Postgres in chunks (store.py). Workers
(api/job_worker) publish what is ready (relay.py), take it from the broker again (brokers/), answer it with the same
predictor as replicas, and write the rows and the end of the chunk in one transaction (consumer.py, chunks.py).
results.py reads them back, progress.py watches, callbacks.py tells who asked.
"""
