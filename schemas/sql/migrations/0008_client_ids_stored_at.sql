-- A better name for what the column means by now. It can't be renamed: partitions and their expiry are by it.
ALTER TABLE client_ids
    ADD COLUMN IF NOT EXISTS stored_at DateTime64(3, 'UTC') ALIAS received_at
        COMMENT 'When the event was inserted, by the clock of ClickHouse; until version 0.2, when it was accepted'
