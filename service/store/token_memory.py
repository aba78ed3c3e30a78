"""What tells whether ClickHouse surely knows a deduplication token still."""

from typing import NamedTuple


class TokenMemory(NamedTuple):
    """Seconds since ClickHouse was started; blocks that the table has had; how many of their tokens it remembers."""

    up: float
    blocks: int
    window: int
