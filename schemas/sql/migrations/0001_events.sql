-- One row an event. What each column means is in its comment; why the table is as it is, in docs/adr/0003.
-- Nothing here uses toStartOfHour: beyond 1970 to 2106 it wraps or clamps, depending on the version.
CREATE TABLE IF NOT EXISTS events (
    event_id UUID COMMENT 'Unique id of the event: the one that the client sent, else a UUID of version 7' CODEC(ZSTD(1)),
    event_name LowCardinality(String) COMMENT 'What happened, for instance order_placed; 1 to 100 characters' CODEC(ZSTD(1)),
    category LowCardinality(String) COMMENT 'One of page_view, user_action, trading, auth, error, performance, feature, system' CODEC(ZSTD(1)),
    priority LowCardinality(String) COMMENT 'One of low, medium, high, critical' CODEC(ZSTD(1)),
    properties String COMMENT 'Anything else, a JSON object exactly as the client wrote it; {} if none was sent' CODEC(ZSTD(1)),
    timestamp DateTime64(6, 'UTC') COMMENT 'Event time: when it happened, as the client says; the time of receipt if it says nothing' CODEC(GCD, Delta(8), ZSTD(1)),
    received_at DateTime64(3, 'UTC') COMMENT 'When the server accepted the event, by the clock of the server' CODEC(Delta(8), ZSTD(1)),
    session_id String COMMENT 'Session of the client; empty if none was sent' CODEC(ZSTD(1)),
    page_url String COMMENT 'Page on which it happened; empty if none was sent' CODEC(ZSTD(1)),
    referrer LowCardinality(String) COMMENT 'Page before it; empty if none was sent' CODEC(ZSTD(1)),
    user_agent LowCardinality(String) COMMENT 'User agent of the client, as it says; empty if none was sent' CODEC(ZSTD(1)),
    client_id LowCardinality(String) COMMENT 'Client that sent the batch, as it says; empty if none was sent' CODEC(ZSTD(1)),
    source LowCardinality(String) COMMENT 'Name of the access token with which the event was sent' CODEC(ZSTD(1)),
    id_origin LowCardinality(String) COMMENT 'Who made event_id: client or server' CODEC(ZSTD(1)),
    INDEX by_time timestamp TYPE minmax GRANULARITY 1,
    PROJECTION by_hour (
        SELECT intDiv(toUnixTimestamp64Micro(timestamp), 3600000000) AS hour, category, count()
        GROUP BY hour, category
    )
) ENGINE = MergeTree
PARTITION BY toYYYYMM(received_at)
ORDER BY (intDiv(toUnixTimestamp64Micro(timestamp), 3600000000), session_id)
SETTINGS
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    lightweight_mutation_projection_mode = 'rebuild'
COMMENT 'Events as accepted by the analytics service, each exactly once'
