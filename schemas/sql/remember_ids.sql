-- Does the work of client_ids_view for the rows of one segment, after the view has failed. An id may be there twice.
INSERT INTO client_ids (id, received_at)
SELECT toUInt128(event_id), now64(3, 'UTC')
FROM events
WHERE id_origin = 'client' AND substring(segment, 1, 29) = {segment:String}
    AND received_at >= fromUnixTimestamp64Milli({since:Int64}, 'UTC')
    AND received_at <= fromUnixTimestamp64Milli({until:Int64}, 'UTC')
