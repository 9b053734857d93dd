"""Apps that Shoal is compared with. Each runs in the very same gunicorn, under api/gunicorn.conf.py."""
