-- Which of these ids ClickHouse has, of events stored in the last so many milliseconds. A parameter may be 128 KiB long,
-- which fits 3,000 ids: so there are four, since one query for all costs half of what four queries cost.
SELECT id FROM client_ids
PREWHERE id IN arrayConcat({ids0:Array(UInt128)}, {ids1:Array(UInt128)}, {ids2:Array(UInt128)}, {ids3:Array(UInt128)})
WHERE stored_at >= now64(3, 'UTC') - toIntervalMillisecond({window:Int64})
