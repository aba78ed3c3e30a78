"""The life of segments as a model: the service's own flusher and spool, and a ClickHouse that does its worst."""
