"""RQ shells over ``quota_engine.jobs``, and the worker process."""
