"""The response cache: keys.py says what is equal, local.py and shared.py are its two tiers, sealed.py what Redis holds."""
