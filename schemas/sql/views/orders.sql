-- version 1
-- Orders submitted between since and until, and what became of each. Later events are looked for up to 7 days after until.
-- order_id: Id of the order
-- symbol: Instrument
-- side: buy or sell
-- type: market, limit, stop …
-- user_id: User who submitted it; empty if none was sent
-- session_id: Session in which it was submitted
-- quantity: How much was ordered
-- price: Price of a limit order; 0 if none was sent
-- status: What it came to: filled, cancelled, rejected; else partially_filled, acknowledged or submitted
-- reason: Why it was cancelled or rejected
-- fills: How many fills it had
-- filled_quantity: How much of it was executed
-- submitted_at: When it was submitted
-- acknowledged_at: When the venue had taken it; NULL if it has not
-- filled_at: When all of it was executed; NULL if it was not
-- cancelled_at: When it was cancelled; NULL if it was not
-- rejected_at: When it was rejected; NULL if it was not
-- ms_to_acknowledged: Milliseconds from the submission
-- ms_to_filled: Milliseconds from the submission
-- ms_to_cancelled: Milliseconds from the submission
-- ms_to_rejected: Milliseconds from the submission
SELECT
    o.id AS order_id,
    anyIf(o.symbol, o.symbol != '') AS symbol,
    anyIf(o.side, o.side != '') AS side,
    anyIf(o.type, o.name = 'order_submitted') AS type,
    anyIf(o.user, o.name = 'order_submitted') AS user_id,
    anyIf(o.session, o.name = 'order_submitted') AS session_id,
    maxIf(o.quantity, o.name = 'order_submitted') AS quantity,
    maxIf(o.price, o.name = 'order_submitted') AS price,
    multiIf(
        filled_at IS NOT NULL, 'filled',
        rejected_at IS NOT NULL, 'rejected',
        cancelled_at IS NOT NULL, 'cancelled',
        fills > 0, 'partially_filled',
        acknowledged_at IS NOT NULL, 'acknowledged',
        'submitted'
    ) AS status,
    argMaxIf(o.reason, o.time, o.name IN ('order_cancelled', 'order_rejected')) AS reason,
    countIf(o.name IN ('order_partially_filled', 'order_filled')) AS fills,
    sumIf(o.quantity, o.name IN ('order_partially_filled', 'order_filled')) AS filled_quantity,
    minIf(o.time, o.name = 'order_submitted') AS submitted_at,
    minOrNullIf(o.time, o.name = 'order_acknowledged') AS acknowledged_at,
    minOrNullIf(o.time, o.name = 'order_filled') AS filled_at,
    minOrNullIf(o.time, o.name = 'order_cancelled') AS cancelled_at,
    minOrNullIf(o.time, o.name = 'order_rejected') AS rejected_at,
    (toUnixTimestamp64Micro(acknowledged_at) - toUnixTimestamp64Micro(submitted_at)) / 1000 AS ms_to_acknowledged,
    (toUnixTimestamp64Micro(filled_at) - toUnixTimestamp64Micro(submitted_at)) / 1000 AS ms_to_filled,
    (toUnixTimestamp64Micro(cancelled_at) - toUnixTimestamp64Micro(submitted_at)) / 1000 AS ms_to_cancelled,
    (toUnixTimestamp64Micro(rejected_at) - toUnixTimestamp64Micro(submitted_at)) / 1000 AS ms_to_rejected
FROM (
    SELECT
        JSONExtract(e.properties, 'order_id', 'String') AS id,
        e.event_name AS name,
        e.timestamp AS time,
        e.user_id AS user,
        e.session_id AS session,
        JSONExtractString(e.properties, 'symbol') AS symbol,
        JSONExtractString(e.properties, 'side') AS side,
        JSONExtractString(e.properties, 'type') AS type,
        JSONExtractString(e.properties, 'reason') AS reason,
        toDecimal128OrZero(JSONExtract(e.properties, 'quantity', 'String'), 12) AS quantity,
        toDecimal128OrZero(JSONExtract(e.properties, 'price', 'String'), 12) AS price
    FROM events AS e
    WHERE e.event_name IN (
            'order_submitted', 'order_acknowledged', 'order_partially_filled', 'order_filled', 'order_cancelled',
            'order_rejected'
        )
        AND e.timestamp >= {since:DateTime64(6, 'UTC')}
        AND e.timestamp < {until:DateTime64(6, 'UTC')} + INTERVAL 7 DAY
) AS o
WHERE o.id != ''
GROUP BY o.id
HAVING countIf(o.name = 'order_submitted') > 0 AND submitted_at < {until:DateTime64(6, 'UTC')}
