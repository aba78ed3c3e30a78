"""Event ingestion: validate, make durable, insert into ClickHouse, count."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("analytics")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
