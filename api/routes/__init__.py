"""HTTP in, HTTP out: one module a resource. hot.py is how predictions get past the framework's routing."""
