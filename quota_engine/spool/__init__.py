"""
The spool: a local file in which charges wait while Redis is away.

One SQLite file per deployment and machine, shared by its processes. What was noted survives the
process and the machine's power; it is replayed once by its operation id, by whichever process
comes first. The same file counts what this machine has admitted offline, so that its processes
together keep the allowance.

* Spool          note, admit, claim, settle
* SpoolError     the file cannot be used; says why and what to do
* spools_in      the spools of a folder, for who only looks
"""

from quota_engine.spool.file import SpoolError
from quota_engine.spool.spool import Claimed, Spool, SpooledRow, SpoolStatus, spools_in

__all__ = ["Claimed", "Spool", "SpoolError", "SpoolStatus", "SpooledRow", "spools_in"]
