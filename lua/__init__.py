"""The atomic scripts, one per command. Read by ``quota_engine.scripts``."""
