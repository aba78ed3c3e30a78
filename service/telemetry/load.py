"""What the connections of the process take together."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class ConnectionLoad:
    """What all connections of the process take together, and what time each has.

    ``keepalive_timeout`` is in seconds, between an answer and the next request; ``body_timeout`` for a body.
    """

    max_bytes: int
    keepalive_timeout: float = 75.0
    body_timeout: float = 30.0
    bytes: int = 0
    unfinished_bytes: int = 0
    connections: int = 0
    #: How many connections were closed on our own account, by why.
    closed: dict[tuple[str, ...], int] = field(default_factory=dict)

    def leave(self) -> None:
        """Count one connection less."""
        self.connections -= 1

    def count_closed(self, reason: str) -> None:
        """Count a connection that is closed on our own account."""
        self.closed[reason,] = self.closed.get((reason,), 0) + 1
