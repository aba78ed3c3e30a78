-- The ids that clients made, of the last days: what an event sent again is recognised by.
-- As numbers they sort by time if they are of version 7 (a UUID sorts by its second half), so that those of
-- recent events lie together and looking up a batch of them reads next to nothing.
CREATE TABLE IF NOT EXISTS client_ids (
    id UInt128 COMMENT 'event_id as a number' CODEC(ZSTD(1)),
    received_at DateTime64(3, 'UTC') COMMENT 'When the event was accepted' CODEC(Delta(8), ZSTD(1))
) ENGINE = MergeTree
PARTITION BY toDate(received_at)
ORDER BY id
TTL received_at + INTERVAL 8 DAY DELETE
SETTINGS
    index_granularity = 1024,
    ttl_only_drop_parts = 1,
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1
COMMENT 'Ids made by clients, by which the analytics service recognises events that are sent again'
