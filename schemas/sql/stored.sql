-- How many rows of a segment the table has, by the INSERT that brought them and by month: a part of a month is all or
-- nothing. The index by_segment leaves next to nothing to read; the times leave out parts from before it was there.
SELECT segment, toYYYYMM(received_at) AS month, count() AS stored
FROM events
WHERE substring(segment, 1, 29) = {segment:String}
    AND received_at >= fromUnixTimestamp64Milli({since:Int64}, 'UTC')
    AND received_at <= fromUnixTimestamp64Milli({until:Int64}, 'UTC')
GROUP BY segment, month
