-- version 1
-- What events between since and until say in latency_ms, by hour, symbol and event.
-- hour: Beginning of the hour, in UTC
-- symbol: Instrument; empty if none was sent
-- event_name: Name of the events
-- samples: How many events
-- p50_ms: Half of them had no more
-- p90_ms: 90 % of them had no more
-- p99_ms: 99 % of them had no more
-- max_ms: The most
SELECT
    x.hour AS hour,
    x.symbol AS symbol,
    x.name AS event_name,
    count() AS samples,
    quantile(0.5)(assumeNotNull(x.latency)) AS p50_ms,
    quantile(0.9)(assumeNotNull(x.latency)) AS p90_ms,
    quantile(0.99)(assumeNotNull(x.latency)) AS p99_ms,
    max(assumeNotNull(x.latency)) AS max_ms
FROM (
    SELECT
        fromUnixTimestamp64Micro(intDiv(toUnixTimestamp64Micro(e.timestamp), 3600000000) * 3600000000, 'UTC') AS hour,
        JSONExtractString(e.properties, 'symbol') AS symbol,
        e.event_name AS name,
        JSONExtract(e.properties, 'latency_ms', 'Nullable(Float64)') AS latency
    FROM events AS e
    WHERE position(e.properties, '"latency_ms"') > 0
        AND e.timestamp >= {since:DateTime64(6, 'UTC')}
        AND e.timestamp < {until:DateTime64(6, 'UTC')}
) AS x
WHERE x.latency IS NOT NULL
GROUP BY x.hour, x.symbol, x.name
