"""What shows whether ClickHouse certainly remembers a deduplication token."""

from typing import NamedTuple


class TokenMemory(NamedTuple):
    """Seconds since ClickHouse started; how many blocks the table has had; how many of their tokens it remembers."""

    up: float
    blocks: int
    window: int
