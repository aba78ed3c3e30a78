-- How many rows of a segment the table has, by the INSERT that brought them and by month: an INSERT
-- stores all of its rows of a month or none. With the index by_segment it reads next to nothing; the times leave out parts
-- that are older than the index.
SELECT segment, toYYYYMM(received_at) AS month, count() AS stored
FROM events
WHERE substring(segment, 1, 29) = {segment:String}
    AND received_at >= fromUnixTimestamp64Milli({since:Int64}, 'UTC')
    AND received_at <= fromUnixTimestamp64Milli({until:Int64}, 'UTC')
GROUP BY segment, month
