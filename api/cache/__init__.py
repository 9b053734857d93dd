"""The response cache: keys.py says what is equal, local.py and shared.py are its tiers, sealed.py what Redis holds.

shared.py asks through lookups.py, writes through writes.py, and lets one of all workers compute a row through
claims.py; connection.py is the wire below them. epochs.py flushes a model out of both tiers.
"""
