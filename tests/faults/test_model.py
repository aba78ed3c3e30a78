"""The model of the life of segments: no life breaks the promise, and each bug that is planted is found."""

import contextlib
import logging
import os
from collections.abc import Iterator

import pytest

from schemas.payload import Rows
from service.pipeline import batch as batches
from service.pipeline.batch import Batch
from service.pipeline.dedup import Repeats
from service.pipeline.dedup_lock import DedupLock
from service.pipeline.inserter import Inserter, Stored
from tests.model.explore import explore

#: Enough that each planted bug shows, several times over.
LIVES = 400


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_no_life_breaks_the_promise() -> None:
    lived, found = explore(1, 6)
    assert found is None, found
    assert lived >= 10


async def _nothing_is_there(self: Inserter, batch: Batch, rows: Rows) -> Stored:
    return {}


async def _all_are_new(self: Repeats, rows: Rows) -> Rows:
    return rows


@contextlib.asynccontextmanager
async def _no_lock(self: DedupLock):  # type: ignore[no-untyped-def]
    yield


def _token_of_a_try(self: Batch, start: int, stop: int) -> str:
    self.tries_of_test = getattr(self, "tries_of_test", 0) + 1  # type: ignore[attr-defined]
    return f"{self.segment.name}-{start}-{stop + 1_000_000 * self.tries_of_test}"


def _end_at_the_start(self: DedupLock) -> int:
    fd = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    self._memory[:] = bytes(len(self._memory))
    return fd


PLANTED = {
    "the table is not asked": (Inserter, "_ask", _nothing_is_there),
    "known ids are not asked for": (Repeats, "without", _all_are_new),
    "what is in flight is not noted": (DedupLock, "begin", lambda self, token: None),
    "a worker that starts takes what is in flight for answered": (DedupLock, "_open", _end_at_the_start),
    "all workers insert at once": (DedupLock, "held", _no_lock),
    "each try has a token of its own": (batches.Batch, "token", _token_of_a_try),
    "what is in flight is not resolved": (Inserter, "_resolve_in_flight", _all_are_new),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_a_bug_that_is_planted_is_found(monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    owner, name, replacement = PLANTED[bug]
    monkeypatch.setattr(owner, name, replacement)
    monkeypatch.setattr("tests.model.explore.shrink", lambda name, actions: actions)
    lived, found = explore(2, 60, lives=LIVES)
    assert found, f"not in {lived} lives"
