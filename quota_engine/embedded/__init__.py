"""
Servers of one's own: a real Valkey and a real PostgreSQL in a folder.

``ensure_servers`` gives every process of one home the same pair and starts what isn't running;
``start_valkey`` and ``start_postgres`` start private ones, for tests. They must not know what the
engine keeps in them. On the floor of the carriers, so that ``open()`` may call it; it imports no
client library.
"""

from quota_engine.embedded.home import (
    ServerStatus,
    ServerUrls,
    ensure_servers,
    home_valkey,
    server_status,
    stop_servers,
)
from quota_engine.embedded.postgres import PostgresServer, start_postgres
from quota_engine.embedded.process import Server
from quota_engine.embedded.valkey import ValkeyServer, start_valkey

__all__ = [
    "PostgresServer",
    "Server",
    "ServerStatus",
    "ServerUrls",
    "ValkeyServer",
    "ensure_servers",
    "home_valkey",
    "server_status",
    "start_postgres",
    "start_valkey",
    "stop_servers",
]
