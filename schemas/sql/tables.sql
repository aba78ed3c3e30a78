-- How the tables were made: engine and settings as one text; whether the view of ids reads it; whether it fills the table of ids.
SELECT
    name,
    engine_full,
    has(dependencies_table, 'client_ids_view') AS has_view,
    position(create_table_query, concat(' TO ', database, '.client_ids')) > 0 AS fills_ids
FROM system.tables
WHERE database = currentDatabase() AND name IN ('events', 'client_ids', 'client_ids_view')
