-- Whether the table holds this very event. By hour and session, so that next to nothing is read for it.
SELECT count() > 0 FROM events
WHERE timestamp = fromUnixTimestamp64Micro({timestamp:Int64}, 'UTC')
    AND session_id = {session_id:String}
    AND event_id = {event_id:UUID}
