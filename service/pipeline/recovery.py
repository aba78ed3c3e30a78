"""The start: what an earlier process left on disk goes through the same flusher as what comes."""

import logging

from service.errors import StartError
from service.pipeline.flusher import Flusher
from service.spool.spool import Spool

_log = logging.getLogger(__name__)


def recover(spool: Spool, flusher: Flusher, *, first: bool = True) -> None:
    """Hand what an earlier process left on disk to the flusher. Raises StartError. ``first``: of several workers."""
    quarantine = flusher.quarantine
    try:
        for path in quarantine.returning():  # before the spool is looked into: it is there then
            quarantine.take(path, spool)
        quarantine.count()
    except OSError as error:
        _log.error("what comes back from the quarantine waits: %s", error)
    if first and any(quarantine.size):
        _log.warning("the quarantine holds %d events and %d damaged files, %d bytes", *quarantine.size)
    try:
        waiting = quarantine.waiting()
        segments = [segment for segment in spool.recover() if segment.name not in waiting]
    except OSError as error:
        raise StartError(f"the spool {spool.folder} can't be read ({error.strerror or error}): mend the disk") from None
    for segment in segments:
        flusher.submit(segment, None)
    if segments:
        _log.info("%d events of earlier runs are in the spool, to be inserted", flusher.pending_rows)
    for name in spool.unknown_files:
        _log.warning("%s in the spool is none of our files: left alone", name)
