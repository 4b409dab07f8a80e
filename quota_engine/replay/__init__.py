"""
Replay: real calls, as a trace recorded them, against a real deployment, and the proof afterwards.

A trace tells when calls came and how many tokens each used. Every call becomes a hold and a
capture of one of the run's own users; several client processes make them while a worker persists.
Then everything is counted again from three sides: what clients were told, Redis and the ledger.

``trace`` reads the file, ``workload`` gives calls to users and grants to them, ``clients`` are the
processes, ``persisting`` is the worker beside them, ``proofs`` counts again, ``running`` does all
of it in order. Nothing here prints.
"""
