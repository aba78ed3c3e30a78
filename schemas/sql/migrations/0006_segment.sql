-- Says from which INSERT a row came, so that the table itself remembers what was stored: see docs/adr/0018.
-- Filled by ClickHouse, from the deduplication token of the INSERT; the same in all of its rows, so that it takes next to
-- no room. The index is by the segment: of one that had to be cut in parts, the name is followed by the range of rows.
ALTER TABLE events
    ADD COLUMN IF NOT EXISTS segment LowCardinality(String) DEFAULT getSetting('insert_deduplication_token')
        COMMENT 'Batch of the service with which the event was inserted; empty if not by the service, or by a version before 0.2' CODEC(ZSTD(1)),
    ADD INDEX IF NOT EXISTS by_segment substring(segment, 1, 29) TYPE bloom_filter(0.001) GRANULARITY 1
