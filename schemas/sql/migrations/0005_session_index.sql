-- Finds the events of a session without their hour: what /loss asks for. Why so: docs/adr/0003-table.md.
-- Parts from before get it as they are merged; an event of theirs has no sequence, and so no place in /loss.
ALTER TABLE events ADD INDEX IF NOT EXISTS by_session session_id TYPE bloom_filter(0.001) GRANULARITY 1
