"""Shoal's model server: one container of this package is a replica.

app.py builds it, lifespan.py opens what it needs, routes/ speak HTTP, predictor.py tells the story of a prediction:
cache/ -> batching.py -> models/ -> prediction_log/. errors.py and metrics.py are known to all, and know nobody.
"""

__version__ = "0.1.0"
