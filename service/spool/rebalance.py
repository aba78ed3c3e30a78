"""At a start, moves the segments of workers that no longer exist to those that do.

A worker has a folder with its spool: worker 0 the data folder itself, the others ``workers/<number>``. When a start
has fewer workers than an earlier one, the segments of the others move. They keep their names, and so their tokens.

Each moves by one rename. It may have been tried: as for every segment that a start finds, the table is asked for its
rows before they are inserted. The ``.splits`` file that an earlier version left beside a segment moves first. If this
is killed anywhere, the next start continues, with any number of workers. Segments only move to workers with lower
numbers, and whoever looks for a segment begins with the highest.
"""

import logging
from pathlib import Path

from service.errors import StartError
from service.spool.data_dir import spool_of, worker_folders
from service.spool.disk import fsync_folder, replace_durably
from service.spool.format import frames
from service.spool.segment import OPEN, SEALED

#: How often to list a spool while its worker renames segments in it.
_LISTINGS = 5
_log = logging.getLogger(__name__)


def adopter_of(number: int, count: int) -> int:
    """Which of ``count`` workers gets the segments of worker ``number``."""
    return number % count


def adopt(data: Path, count: int) -> None:
    """Move the segments of workers beyond ``count`` to those that run. Raises StartError.

    Needs the lock of the data folder, and no worker running.
    """
    for number in worker_folders(data):
        source, target = spool_of(data, number), spool_of(data, adopter_of(number, count))
        try:
            if number >= count and source.is_dir():
                _move(source, target)
        except OSError as error:
            raise StartError(
                f"what is in {source} can't be moved to {target} ({error.strerror or error}): mend the disk;"
                f" or start with {number + 1} workers and let them drain"
            ) from None


def _move(source: Path, target: Path) -> None:
    found = _segments(source)
    if found:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, path in found.items():
            splits = path.with_name(f"{name}.splits")
            if splits.exists():
                replace_durably(target / splits.name, splits.read_bytes())
            path.rename(target / path.name)
        fsync_folder(target)
        fsync_folder(source)
        _log.info("moved %d segments of a worker that no longer exists from %s to %s", len(found), source, target)
    for rest in source.iterdir():
        if rest.suffix == ".splits" or rest.name == "probe":
            rest.unlink()
        else:
            _log.warning("unknown file %s: left alone", rest)


def _segments(folder: Path) -> dict[str, Path]:
    """The segments in a folder by name, oldest first."""
    matches = ((OPEN.fullmatch(path.name) or SEALED.fullmatch(path.name), path) for path in folder.iterdir())
    return dict(sorted((match["name"], path) for match, path in matches if match))


def rows_in(spool: Path) -> int:
    """How many rows the segments in a spool hold, if its worker does not answer."""
    for _ in range(_LISTINGS):
        rows = 0
        for path in _segments(spool).values():
            try:
                sealed = SEALED.fullmatch(path.name)
                rows += int(sealed["rows"]) if sealed else sum(one for _, _, one, _ in frames(path.read_bytes()))
            except FileNotFoundError:  # sealed meanwhile, under another name, or inserted
                break
        else:
            break
    return rows
