-- What a client says of its own order and clock. The columns after id_origin, so that the order is that of schemas/rows.py.
-- Which time counts, and why the corrected one is not stored, is in docs/adr/0010. The bounds are those of timestamp.
ALTER TABLE events
    ADD COLUMN IF NOT EXISTS sequence UInt32 COMMENT 'Number of the event in its session, counted by the client from 1; 0 if none was sent' CODEC(Delta(4), ZSTD(1)),
    ADD COLUMN IF NOT EXISTS clock_skew Nullable(Int64) COMMENT 'Milliseconds that the clock behind timestamp was slow: received_at less the time of sending by that clock; NULL if the client did not say when it sent, or gave the event no time' CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS corrected_timestamp DateTime64(6, 'UTC')
        ALIAS fromUnixTimestamp64Micro(least(greatest(
            toUnixTimestamp64Micro(timestamp) + if(abs(clock_skew) > 60000, assumeNotNull(clock_skew), 0) * 1000,
            toInt64(-2208988800000000)), toInt64(10413791999999999)), 'UTC')
        COMMENT 'Event time by the clock of the server: timestamp + clock_skew where that is more than 60000 ms either way, else timestamp'
