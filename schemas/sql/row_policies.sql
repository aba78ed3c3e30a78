-- The tables of which a row policy hides rows from this user.
SELECT DISTINCT table FROM system.row_policies
WHERE database = currentDatabase() AND table IN ('events', 'client_ids')
    AND (has(apply_to_list, currentUser()) OR apply_to_all AND NOT has(apply_to_except, currentUser()))
