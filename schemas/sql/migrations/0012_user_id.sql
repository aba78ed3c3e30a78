-- Who did it, across sessions and devices: active users, retention and erasure need it. The index finds a user's events
-- without their hours; why a bloom filter is in docs/adr/0003-table.md. Parts from before get it as they are merged.
ALTER TABLE events
    ADD COLUMN IF NOT EXISTS user_id String COMMENT 'User who did it, as the client says; empty if none was sent' CODEC(ZSTD(1)) AFTER clock_skew,
    ADD INDEX IF NOT EXISTS by_user user_id TYPE bloom_filter(0.001) GRANULARITY 1
