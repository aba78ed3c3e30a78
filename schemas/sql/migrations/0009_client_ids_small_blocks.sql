-- Looking up random ids reads a granule for each, in each large part. A granule of ids has 16 KiB, and by default four of
-- them are compressed together; by this each alone. A day that is over is merged into one part. docs/adr/0018 has figures.
ALTER TABLE client_ids MODIFY SETTING
    min_compress_block_size = 16384,
    max_compress_block_size = 16384,
    min_age_to_force_merge_seconds = 3600,
    min_age_to_force_merge_on_partition_only = 1
