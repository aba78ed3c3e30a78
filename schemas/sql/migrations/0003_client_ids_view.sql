-- Fills client_ids in the same insert that fills events, so that the two agree also after a crash.
CREATE MATERIALIZED VIEW IF NOT EXISTS client_ids_view TO client_ids AS
SELECT toUInt128(event_id) AS id, received_at
FROM events
WHERE id_origin = 'client'
