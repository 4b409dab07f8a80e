"""Servers of one's own: a real Valkey and a real PostgreSQL in a folder."""
