"""Models: what they say of themselves (manifest.py), where they lie (repository.py), and running them (runtime.py).

pt2.py reads and writes the artefacts, cgroups.py counts CPUs, export.py registers a user's own module. Only runtime.py
with its parts (signature.py, lowering.py, staging.py) and export.py import torch, so everything that merely needs to
know a model stays cheap.
"""
