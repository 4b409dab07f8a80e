"""
A replay on a tree of accounts: organisations, their teams and users, limited on every level.

``planning`` deals users to teams and sizes budgets and limits, so that each kind refuses some
calls; ``calling`` is a client process in simulated time, in which calls last; ``walking`` follows
the ledger and counts every limit again, by what it means alone; ``proving`` compares levels;
``running`` does all of it in order.
"""
