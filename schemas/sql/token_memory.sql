-- Shows whether ClickHouse certainly remembers a deduplication token: how long it has been up, in seconds; how many
-- blocks the table has had, at least; and how the table was made, with the number of blocks that it remembers.
SELECT
    uptime() AS up,
    (SELECT max(max_block_number) FROM system.parts WHERE database = currentDatabase() AND table = 'events') AS blocks,
    engine_full
FROM system.tables
WHERE database = currentDatabase() AND name = 'events'
