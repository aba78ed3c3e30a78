-- version 1
-- Sessions that began between since and until. Their events are looked for up to a day before and after.
-- session_id: Session of the client
-- user_id: User of the session, the last one if there were several; empty if none was sent
-- started_at: Time of its first event
-- ended_at: Time of its last event
-- seconds: From the first event to the last
-- events: How many events it has
-- page_views: How many of them are of category page_view
-- errors: How many of them are of category error
-- entry_page: Page of its first event that has one
-- exit_page: Page of its last event that has one
SELECT
    e.session_id AS session_id,
    argMaxIf(e.user_id, (e.timestamp, e.sequence), e.user_id != '') AS user_id,
    min(e.timestamp) AS started_at,
    max(e.timestamp) AS ended_at,
    (toUnixTimestamp64Micro(ended_at) - toUnixTimestamp64Micro(started_at)) / 1000000 AS seconds,
    count() AS events,
    countIf(e.category = 'page_view') AS page_views,
    countIf(e.category = 'error') AS errors,
    argMinIf(e.page_url, (e.timestamp, e.sequence), e.page_url != '') AS entry_page,
    argMaxIf(e.page_url, (e.timestamp, e.sequence), e.page_url != '') AS exit_page
FROM events AS e
WHERE e.session_id != ''
    AND e.timestamp >= {since:DateTime64(6, 'UTC')} - INTERVAL 1 DAY
    AND e.timestamp < {until:DateTime64(6, 'UTC')} + INTERVAL 1 DAY
GROUP BY e.session_id
HAVING started_at >= {since:DateTime64(6, 'UTC')} AND started_at < {until:DateTime64(6, 'UTC')}
