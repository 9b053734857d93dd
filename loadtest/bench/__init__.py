"""`make bench`: Shoal with everything on against what it is measured by, in one run on one machine.

__main__     the story: start, measure in turns, compare, write
experiments  which subjects meet under which load, and why
subjects/    the apps that Shoal is compared with, and the ways in which it is started
stack        starts a subject with its stores, on ports and in folders of its own
wrk          the load generator, driven by wrk.lua
workloads    what is sent: hit, miss and zipf
usage        CPU time and memory of all processes of a subject
results      rounds, medians, ratios
bars         what the ratios are held against
machine      what it was measured on
report       a table, JSON, and a page with charts
"""
