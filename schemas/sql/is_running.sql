-- Whether ClickHouse is running an INSERT with this token now.
SELECT count() > 0 FROM system.processes WHERE Settings['insert_deduplication_token'] = {token:String}
