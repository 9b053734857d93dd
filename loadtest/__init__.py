"""Loads a running Shoal and says whether it kept its objectives.

__main__    finds the server, then hands over to Locust
locustfile  what Locust runs: users, their requests, and when to report
scenarios   what each scenario sends
payloads    bodies to send: hot, Zipf and unique
answers     checks every answer
shapes      the steps of the ramp, and the knee
tally       latencies and cache tiers, out of Locust's statistics
verdict     objectives.yaml against what was measured: pass, or not
report      what is added to Locust's HTML report

Only the locustfile imports Locust: importing that replaces the sockets of the whole process.
"""
