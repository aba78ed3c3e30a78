"""The start: what an earlier process left on disk goes through the same flusher as new events."""

import logging

from service.errors import StartError
from service.pipeline.flusher import Flusher
from service.spool.spool import Spool

_log = logging.getLogger(__name__)


def recover(spool: Spool, flusher: Flusher, *, first: bool = True) -> None:
    """Hand what an earlier process left on disk to the flusher. Raises StartError. ``first``: this is worker 0."""
    quarantine = flusher.quarantine
    try:
        for path in quarantine.returning():  # before looking into the spool, where it is then
            quarantine.take(path, spool)
        quarantine.count()
    except OSError as error:
        _log.error("rows that return from the quarantine must wait: %s", error)
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
        _log.info("%d events of earlier runs are in the spool and will be inserted", flusher.pending_rows)
    for name in spool.unknown_files:
        _log.warning("unknown file %s in the spool: left alone", name)
