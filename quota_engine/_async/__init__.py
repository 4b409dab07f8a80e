"""The carriers: what waits for Redis and PostgreSQL on a call's way."""
