-- version 1
-- Active users on each day from since until before until: on that day, and on the 7 and 30 days that end with it. Counts
-- are those of uniq: exact for few users, within about a percent for many.
-- day: Day, in UTC
-- daily: Users with an event on that day
-- weekly: Users with an event on that day or one of the 6 before
-- monthly: Users with an event on that day or one of the 29 before
SELECT day, daily, weekly, monthly
FROM (
    SELECT
        d.day AS day,
        uniqMerge(d.users) OVER (ORDER BY d.day ROWS BETWEEN CURRENT ROW AND CURRENT ROW) AS daily,
        uniqMerge(d.users) OVER (ORDER BY d.day ROWS BETWEEN 6 PRECEDING AND CURRENT ROW) AS weekly,
        uniqMerge(d.users) OVER (ORDER BY d.day ROWS BETWEEN 29 PRECEDING AND CURRENT ROW) AS monthly
    FROM (
        SELECT u.day AS day, uniqMergeState(u.users) AS users
        FROM (
            SELECT toDate32(e.timestamp) AS day, uniqState(e.user_id) AS users
            FROM events AS e
            WHERE e.user_id != ''
                AND e.timestamp >= toDateTime64(toDate32({since:DateTime64(6, 'UTC')}) - 29, 6, 'UTC')
                AND e.timestamp < {until:DateTime64(6, 'UTC')}
            GROUP BY day
            UNION ALL
            SELECT
                toDate32({since:DateTime64(6, 'UTC')}) - 29 + arrayJoin(range(toUInt64(greatest(0, 30 + dateDiff(
                    'day', {since:DateTime64(6, 'UTC')}, {until:DateTime64(6, 'UTC')} - INTERVAL 1 MICROSECOND
                ))))) AS day,
                arrayReduce('uniqState', emptyArrayString()) AS users
        ) AS u
        GROUP BY u.day
    ) AS d
)
WHERE day >= toDate32({since:DateTime64(6, 'UTC')})
