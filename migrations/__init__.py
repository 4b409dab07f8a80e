"""Alembic migrations: they run from a wheel as well as from a checkout."""
