# Written by tools/unasync.py from quota_engine/_async/__init__.py. Edit that file instead.
"""The carriers: what waits for Redis and PostgreSQL on a call's way."""
