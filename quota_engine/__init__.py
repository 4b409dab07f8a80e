"""Quotas for large-model APIs: Redis decides, PostgreSQL remembers."""
