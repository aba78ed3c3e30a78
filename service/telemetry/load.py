"""What the connections of the process take together."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class ConnectionLoad:
    """What all connections of the process take together, and the time-outs of each.

    In seconds: ``keepalive_timeout`` between an answer and the next request; ``body_timeout`` for a body.
    """

    max_bytes: int
    keepalive_timeout: float = 75.0
    body_timeout: float = 30.0
    bytes: int = 0
    unfinished_bytes: int = 0
    connections: int = 0
    #: How many connections we closed ourselves, by reason.
    closed: dict[tuple[str, ...], int] = field(default_factory=dict)

    def leave(self) -> None:
        """Count one connection less."""
        self.connections -= 1

    def count_closed(self, reason: str) -> None:
        """Count a connection that we close ourselves."""
        self.closed[reason,] = self.closed.get((reason,), 0) + 1
