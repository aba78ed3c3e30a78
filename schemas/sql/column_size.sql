-- Of how many rows a column is written down, of how many, and what it takes on disk. ClickHouse works it out for the others.
SELECT
    sumIf(rows, has_column) AS written,
    sum(rows) AS all_rows,
    sum(size) AS bytes
FROM (
    SELECT
        name,
        any(rows) AS rows,
        countIf(column = {name:String}) > 0 AS has_column,
        sumIf(column_bytes_on_disk, column = {name:String}) AS size
    FROM system.parts_columns
    WHERE database = currentDatabase() AND table = 'events' AND active
    GROUP BY name
)
