"""The carriers without await, generated from ``_async`` by tools/unasync.py."""
