"""`make bench`: Shoal with everything on against what it is measured by, in one run on one machine.

__main__     the story: start, measure in turns, compare, write; options has its command line
experiments  which subjects meet under which load, and why; growth those in which something grows
subject      what is measured, and subjects/ the apps that Shoal is compared with
stack        starts a subject with its stores, on ports and in folders of its own; environment, loopback
fill         what the stores hold before; generated: models that are only measured
measure      rounds in turns
wrk          the load generator, driven by wrk.lua; workloads: what it sends
limit        a model by itself
usage        CPU time and memory of all processes of a subject; exposition and access_log: what it says itself
results      rounds, medians, ratios
bars         what the ratios are held against, each a verdict
tables       all of it in tables: comparisons of subjects, and the profile of a request
report       JSON, and a page with charts; picture: the one for the README; machine: what it was measured on
"""
