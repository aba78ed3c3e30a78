-- Whether ClickHouse is at an INSERT with this token now.
SELECT count() > 0 FROM system.processes WHERE Settings['insert_deduplication_token'] = {token:String}
