"""
How Alembic runs here: on the one connection that quota_engine.ledger.migrate hands over.

It must not know a database URL: who may connect, and the lock around it all, is that module's
business. Migrations are written by hand; nothing is compared or generated at run time.
"""

from __future__ import annotations

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, transactional_ddl=True)
context.run_migrations()
