"""Event ingestion: validate, make durable, insert into ClickHouse, count."""

__version__ = "0.2.0"
