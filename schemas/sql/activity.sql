-- Events of a span by category and bucket, by event time. The sorting key begins with the hour, so only the span is read.
SELECT category, intDiv(toUnixTimestamp64Micro(timestamp) - {start_us:Int64}, {bucket_us:Int64}) AS bucket, count() AS events
FROM events
WHERE timestamp >= fromUnixTimestamp64Micro({start_us:Int64}, 'UTC')
    AND timestamp <= fromUnixTimestamp64Micro({now_us:Int64}, 'UTC')
GROUP BY category, bucket
ORDER BY category, bucket
