"""What works off jobs: `python -m api.job_worker`, `chunks` to answer, `callbacks` to report their ends, or both.

worker.py puts together what answers: what a replica opens, without its HTTP and with api.jobs instead. courier.py is
what reports. upkeep.py looks after what is left lying, status.py says how a process is doing, priority.py lets replicas
go first.
"""
