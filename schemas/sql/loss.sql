-- Of one session: the highest number, how many numbers there are, how many gaps, and the first hundred of those.
-- A number that occurs twice counts once.
SELECT
    max(number) AS sent,
    count() AS stored,
    countIf(number > previous + 1) AS gaps,
    groupArraySortedIf(100)((previous + 1, number - 1), number > previous + 1) AS missing
FROM (
    SELECT sequence AS number, lagInFrame(sequence, 1, 0) OVER (ORDER BY sequence) AS previous
    FROM (SELECT DISTINCT sequence FROM events WHERE session_id = {session_id:String} AND sequence > 0)
)
