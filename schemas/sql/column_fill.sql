-- Whether a column is still being written down; how many rows wait for it, how many of these are in work already, and what
-- went wrong last.
WITH
    mutation AS (
        SELECT parts_to_do_names, latest_fail_reason
        FROM system.mutations
        WHERE database = currentDatabase() AND table = 'events' AND NOT is_done
            AND replaceAll(command, '`', '') LIKE concat('%MATERIALIZE COLUMN ', {name:String}, '%')
    ),
    waiting AS (SELECT arrayJoin(parts_to_do_names) AS part FROM mutation)
SELECT
    (SELECT count() FROM mutation) AS pending,
    (SELECT sum(rows) FROM system.parts
        WHERE database = currentDatabase() AND table = 'events' AND active AND name IN (SELECT part FROM waiting)) AS left,
    (SELECT sum(rows_written) FROM system.merges
        WHERE database = currentDatabase() AND table = 'events' AND is_mutation) AS written,
    (SELECT max(latest_fail_reason) FROM mutation) AS problem
