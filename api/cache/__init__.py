"""The response cache: keys.py says what is equal, local.py and shared.py are its tiers, sealed.py what Redis holds."""
