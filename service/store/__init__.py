"""ClickHouse: the only room that knows its driver."""
