"""
A model of the protocol between callers, Redis, the outbox, the ledger and the gate.

One shard and one quota, few operations, few faults, and every interleaving of everybody's steps.
It is plain Python and knows none of the engine's code: it is what the engine's code must do, step
by step, and each file says which of the engine's files it follows. Reading order: ``logs``
(what a quota's log says), ``world`` (who holds what), ``scripts``, ``callers``, ``persisting``,
``gate``, ``faults``, ``promises`` (what must be true), ``explore`` (every interleaving).

Beyond the scope, and so proved elsewhere: grants in burn-down order, pages of a batch, several
quotas and shards, and what a quarantine is resolved to.
"""
