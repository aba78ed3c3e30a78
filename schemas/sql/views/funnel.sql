-- version 1
-- How many sessions with events between since and until took the first of steps, then the second, and so on, up to 8; all
-- within so many seconds from the first.
-- step: Number of the step, from 1
-- event_name: Its event
-- sessions: Sessions that got as far
-- share: Of those that took the first step
-- share_of_previous: Of those that took the step before
SELECT
    f.step AS step,
    {steps:Array(String)}[f.step] AS event_name,
    f.sessions AS sessions,
    if(f.first = 0, 0, f.sessions / f.first) AS share,
    if(f.previous = 0, 0, f.sessions / f.previous) AS share_of_previous
FROM (
    SELECT
        s.step AS step,
        countIf(s.reached >= s.step) AS sessions,
        countIf(s.reached >= 1) AS first,
        countIf(s.reached >= greatest(1, s.step - 1)) AS previous
    FROM (
        SELECT r.reached AS reached, arrayJoin(range(1, least(8, length({steps:Array(String)})) + 1)) AS step
        FROM (
            SELECT windowFunnel({seconds:UInt64} * 1000000)(
                toUInt64(toUnixTimestamp64Micro(e.timestamp)),
                e.event_name = {steps:Array(String)}[1], e.event_name = {steps:Array(String)}[2],
                e.event_name = {steps:Array(String)}[3], e.event_name = {steps:Array(String)}[4],
                e.event_name = {steps:Array(String)}[5], e.event_name = {steps:Array(String)}[6],
                e.event_name = {steps:Array(String)}[7], e.event_name = {steps:Array(String)}[8]
            ) AS reached
            FROM events AS e
            WHERE e.session_id != ''
                AND has({steps:Array(String)}, e.event_name)
                AND e.timestamp >= {since:DateTime64(6, 'UTC')}
                AND e.timestamp < {until:DateTime64(6, 'UTC')}
            GROUP BY e.session_id
            UNION ALL
            SELECT 0 AS reached
        ) AS r
    ) AS s
    GROUP BY s.step
) AS f
