"""What Grafana is provisioned with, and what keeps it true.

serving.py writes dashboards/serving.json with the panels of panels.py; check_panels.py asks Prometheus every query.
"""
