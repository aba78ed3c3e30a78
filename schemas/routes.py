"""The routes of the API: the one table from which the application and ``/openapi.json`` are made."""

from typing import NamedTuple


class Route(NamedTuple):
    """A route. ``operation`` names its handler and its description; ``{prefix}`` is where the API is mounted."""

    method: str
    path: str
    operation: str

    def under(self, prefix: str) -> str:
        """The path where the API is mounted at ``prefix``."""
        return self.path.replace("{prefix}", prefix)

    @property
    def is_mounted(self) -> bool:
        """Whether the path moves with the prefix; those of probes don't."""
        return self.path.startswith("{prefix}")


ROUTES = (
    Route("POST", "{prefix}", "track_event"),
    Route("POST", "{prefix}/batch", "track_batch"),
    Route("POST", "{prefix}/beacon", "track_beacon"),
    Route("GET", "{prefix}/stats", "get_stats"),
    Route("GET", "{prefix}/activity", "get_activity"),
    Route("GET", "{prefix}/pipeline", "get_pipeline"),
    Route("GET", "{prefix}/refusals", "get_refusals"),
    Route("GET", "{prefix}/loss", "get_loss"),
    Route("GET", "{prefix}/health", "get_health"),
    Route("GET", "/livez", "get_livez"),
    Route("GET", "/readyz", "get_readyz"),
)
