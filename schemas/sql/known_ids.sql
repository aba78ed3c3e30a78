-- Which of these ids ClickHouse has, of events accepted since then.
SELECT id FROM client_ids
WHERE id IN {ids:Array(UInt128)} AND received_at >= fromUnixTimestamp64Milli({since:Int64}, 'UTC')
