"""How the shipped models were made: `python -m api.training` makes them again.

One module a model; each has `train()`, seeded, and says what it measured on rows that it had held out. Needs
requirements-dev.txt for the data. Nothing here is imported by a replica.
"""
