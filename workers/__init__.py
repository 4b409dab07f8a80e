"""
RQ shells over ``quota_engine.jobs``, and the worker process.

``quota-engine worker`` starts a keeper, and the keeper its RQ workers. RQ carries one kind of job,
``drain``: persist what comes for half a minute, then let a successor go on. No event is a job. The
keeper sees to it that somebody drains, and does what is due by the clock.
"""
