"""A worker: one of the processes that take events on one port. Usually it is the only one."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Worker:
    """Which worker a process is: its number, from 0, of how many."""

    number: int = 0
    count: int = 1


ALONE = Worker()
