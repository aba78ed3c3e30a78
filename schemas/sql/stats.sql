-- By category: events in all, of the current UTC day, and of the current UTC hour, by event time up to now.
-- The first half is answered from the projection by_hour, whole hours at a time. The second takes off what is
-- dated later in the current hour; the minmax index leaves next to nothing of the table to read for it.
WITH
    {now_us:Int64} AS now_us,
    intDiv(now_us, 3600000000) AS now_hour,
    intDiv(now_us, 86400000000) * 24 AS day_hour
SELECT category, sum(total_part) AS total, greatest(sum(day_part), 0) AS today, greatest(sum(hour_part), 0) AS this_hour
FROM (
    SELECT
        category,
        toInt64(sum(events)) AS total_part,
        toInt64(sumIf(events, hour >= day_hour AND hour <= now_hour)) AS day_part,
        toInt64(sumIf(events, hour = now_hour)) AS hour_part
    FROM (
        SELECT intDiv(toUnixTimestamp64Micro(timestamp), 3600000000) AS hour, category, count() AS events
        FROM events
        GROUP BY hour, category
    )
    GROUP BY category
    UNION ALL
    SELECT category, toInt64(0) AS total_part, -toInt64(count()) AS day_part, -toInt64(count()) AS hour_part
    FROM events
    WHERE timestamp > fromUnixTimestamp64Micro({now_us:Int64}, 'UTC')
        AND timestamp < fromUnixTimestamp64Micro((intDiv({now_us:Int64}, 3600000000) + 1) * 3600000000, 'UTC')
    GROUP BY category
)
GROUP BY category
ORDER BY category
