"""Who may ask what: named API keys, off by default, and the admin token, without which no admin route opens."""
