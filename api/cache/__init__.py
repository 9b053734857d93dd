"""The response cache: keys.py says what is equal, local.py and shared.py are its tiers, sealed.py what Redis holds.

shared.py asks through lookups.py and writes through writes.py; connection.py is the wire below both.
"""
