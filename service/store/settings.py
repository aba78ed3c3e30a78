"""The settings that go with each statement, so that no profile of the database user changes our results.

We found them by trying every setting of two engines, one by one, in a profile (``tests/store/test_profile.py`` keeps
trying those that matter). A limit on memory, time or threads is left to the operator: it causes an error, which is
reported and tried again. docs/operations.md says what is left to the operator and what is overruled.
"""

from typing import Any

TABLE = "events"
ENDLESS = 1 << 30
#: Each of these would silently cut the result of a SELECT, even of the view behind an INSERT.
WHOLE: dict[str, Any] = {
    "limit": 0,
    "offset": 0,
    "additional_result_filter": "",
    "additional_table_filters": "{}",
    "timeout_overflow_mode": "throw",
}
#: Each of these would change an answer, make it stale, or refuse a valid query.
QUERY_SETTINGS: dict[str, Any] = WHOLE | {
    "read_overflow_mode": "throw",
    "read_overflow_mode_leaf": "throw",
    "group_by_overflow_mode": "throw",
    "sort_overflow_mode": "throw",
    "result_overflow_mode": "throw",
    "timeout_overflow_mode_leaf": "throw",
    "set_overflow_mode": "throw",
    "join_overflow_mode": "throw",
    "transfer_overflow_mode": "throw",
    "distinct_overflow_mode": "throw",
    "use_query_cache": 0,
    "skip_unavailable_shards": 0,
    "enable_parallel_replicas": 0,  # with unrelated replicas each row would count several times
    "apply_deleted_mask": 1,
    "final": 0,
    "empty_result_for_aggregation_by_empty_set": 0,
    "aggregate_functions_null_for_empty": 0,
    "group_by_use_nulls": 0,
    "join_use_nulls": 0,
    "transform_null_in": 0,
    "prefer_column_name_to_alias": 0,
    "session_timezone": "",
    "enable_global_with_statement": 1,
    "data_type_default_nullable": 0,
    "force_index_by_date": 0,
    "force_primary_key": 0,
    "force_optimize_projection": 0,
    "force_optimize_projection_name": "",
}
#: How much a query may read or return. We lift these as far as the profile allows: where it constrains one, exceeding
#: it is an error and not a cut.
LIMITS: dict[str, Any] = dict.fromkeys(
    (
        "max_rows_to_read",
        "max_bytes_to_read",
        "max_rows_to_read_leaf",
        "max_bytes_to_read_leaf",
        "max_result_rows",
        "max_result_bytes",
        "max_rows_to_group_by",
        "max_rows_to_sort",
        "max_bytes_to_sort",
        "max_rows_in_set",
        "max_bytes_in_set",
        "max_rows_in_distinct",
        "max_bytes_in_distinct",
        "max_columns_to_read",
        "max_temporary_columns",
        "max_temporary_non_const_columns",
    ),
    0,
)
#: With these the driver sends its first queries, which ask for the settings of the server.
CONNECT_SETTINGS: dict[str, Any] = LIMITS | {
    "limit": 0,
    "offset": 0,
    "additional_result_filter": "",
    "use_query_cache": 0,
}
#: Each of these would cut a batch into several blocks, on one engine or the other.
ONE_BLOCK: dict[str, Any] = {
    "max_insert_block_size": ENDLESS,
    "max_block_size": ENDLESS,  # by which the embedded engine reads a file
    "min_insert_block_size_rows": ENDLESS,
    "min_insert_block_size_bytes": ENDLESS << 10,
    "input_format_parallel_parsing": 0,
}
#: Known to every supported server.
INSERT_SETTINGS: dict[str, Any] = ONE_BLOCK | {
    "async_insert": 0,
    "insert_deduplicate": 1,
    "deduplicate_blocks_in_dependent_materialized_views": 1,
}
#: Sent only to servers that know them; older ones refuse unknown settings.
NEWER_INSERT_SETTINGS: dict[str, Any] = WHOLE | {
    "deduplicate_insert": "enable",  # overrules insert_deduplicate
    "materialized_views_ignore_errors": 0,  # would lose ids, by which repeats are recognised
    "ignore_materialized_views_with_dropped_target_table": 0,
    "input_format_defaults_for_omitted_fields": 1,  # for columns that an older version did not know
    "insert_shard_id": 0,
    "insert_distributed_one_random_shard": 0,  # the next try of a batch would go to another shard
    "max_insert_block_size_bytes": 0,
    "input_format_max_block_size_bytes": 0,
    "input_format_max_block_wait_ms": 0,  # would insert what has arrived so far
    "input_format_connection_handling": 0,  # would insert what arrived before the connection broke
    "use_strict_insert_block_limits": 0,
}
