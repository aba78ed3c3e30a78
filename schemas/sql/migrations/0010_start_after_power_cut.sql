-- ClickHouse does not sync what it merges: a power cut spoils the merged parts of the last seconds, and it goes back to the
-- parts that they were made of. But it does not start at all if more than 100 are spoilt, which takes a few INSERTs a second.
ALTER TABLE events MODIFY SETTING max_suspicious_broken_parts = 100000
