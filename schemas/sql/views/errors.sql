-- version 1
-- Events of category error between since and until, by page and release.
-- page: Address of the page, without what follows ? and #
-- release: Version of the front end; empty if none was sent
-- event_name: Name of the events
-- message: The first 200 characters of what they say
-- errors: How many events
-- sessions: In how many sessions
-- users: Of how many users
-- first_at: Time of the first one
-- last_at: Time of the last one
SELECT
    x.page AS page,
    x.release AS release,
    x.name AS event_name,
    x.message AS message,
    count() AS errors,
    uniqIf(x.session, x.session != '') AS sessions,
    uniqIf(x.user, x.user != '') AS users,
    min(x.time) AS first_at,
    max(x.time) AS last_at
FROM (
    SELECT
        cutQueryStringAndFragment(e.page_url) AS page,
        JSONExtract(e.properties, 'release', 'String') AS release,
        e.event_name AS name,
        leftUTF8(JSONExtractString(e.properties, 'message'), 200) AS message,
        e.session_id AS session,
        e.user_id AS user,
        e.timestamp AS time
    FROM events AS e
    WHERE e.category = 'error'
        AND e.timestamp >= {since:DateTime64(6, 'UTC')}
        AND e.timestamp < {until:DateTime64(6, 'UTC')}
) AS x
GROUP BY x.page, x.release, x.name, x.message
