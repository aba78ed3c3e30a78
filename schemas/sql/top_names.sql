-- The most frequent event names of a span, by event time; ties are sorted by name.
SELECT event_name, count() AS events
FROM events
WHERE timestamp >= fromUnixTimestamp64Micro({start_us:Int64}, 'UTC')
    AND timestamp <= fromUnixTimestamp64Micro({now_us:Int64}, 'UTC')
GROUP BY event_name
ORDER BY events DESC, event_name
LIMIT 10
