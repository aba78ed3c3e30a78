-- version 1
-- Cohorts of users by the week of their first event between since and until, and how many came back in which week.
-- cohort: Monday of the week of the first event, in UTC
-- week: How many weeks later; 0 is the week itself
-- users: Users of the cohort with an event in that week
-- cohort_users: Users of the cohort
-- share: users divided by cohort_users
SELECT
    r.cohort AS cohort,
    r.week AS week,
    r.users AS users,
    max(r.users) OVER (PARTITION BY r.cohort) AS cohort_users,
    users / cohort_users AS share
FROM (
    SELECT a.cohort AS cohort, intDiv(dateDiff('day', a.cohort, a.monday), 7) AS week, count() AS users
    FROM (
        SELECT min(w.monday) AS cohort, arrayJoin(groupUniqArray(w.monday)) AS monday
        FROM (
            SELECT e.user_id AS user, toDate32(e.timestamp) - (toDayOfWeek(e.timestamp) - 1) AS monday
            FROM events AS e
            WHERE e.user_id != ''
                AND e.timestamp >= {since:DateTime64(6, 'UTC')}
                AND e.timestamp < {until:DateTime64(6, 'UTC')}
            GROUP BY user, monday
        ) AS w
        GROUP BY w.user
    ) AS a
    GROUP BY cohort, week
) AS r
