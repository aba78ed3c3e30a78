-- version 1
-- Fills, cancellations and rejections between since and until, by symbol and reason.
-- symbol: Instrument
-- outcome: filled, partially_filled, cancelled or rejected
-- reason: Why, as the events say; empty if they don't
-- events: How many events
-- orders: How many orders
-- quantity: How much was executed; 0 for cancellations and rejections
-- notional: The sum of price times quantity of what was executed
SELECT
    o.symbol AS symbol,
    o.outcome AS outcome,
    o.reason AS reason,
    count() AS events,
    uniqExact(o.id) AS orders,
    sum(o.quantity) AS quantity,
    sum(multiplyDecimal(o.quantity, o.price, 12)) AS notional
FROM (
    SELECT
        JSONExtract(e.properties, 'order_id', 'String') AS id,
        JSONExtractString(e.properties, 'symbol') AS symbol,
        substring(e.event_name, 7) AS outcome,
        JSONExtractString(e.properties, 'reason') AS reason,
        if(endsWith(e.event_name, 'filled'), JSONExtract(e.properties, 'quantity', 'String'), '') AS quantity_text,
        toDecimal128OrZero(quantity_text, 12) AS quantity,
        toDecimal128OrZero(JSONExtract(e.properties, 'price', 'String'), 12) AS price
    FROM events AS e
    WHERE e.event_name IN ('order_partially_filled', 'order_filled', 'order_cancelled', 'order_rejected')
        AND e.timestamp >= {since:DateTime64(6, 'UTC')}
        AND e.timestamp < {until:DateTime64(6, 'UTC')}
) AS o
GROUP BY o.symbol, o.outcome, o.reason
