-- The ids that clients made count from the INSERT of their event, not from its arrival, which may have been long before.
ALTER TABLE client_ids_view MODIFY QUERY
SELECT toUInt128(event_id) AS id, now64(3, 'UTC') AS received_at
FROM events
WHERE id_origin = 'client'
