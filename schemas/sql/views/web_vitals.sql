-- version 1
-- Web vitals between since and until, by page. The limits of the rating are those of https://web.dev/articles/vitals.
-- page: Address of the page, without what follows ? and #
-- vital: ttfb, fcp, lcp, inp (milliseconds) or cls
-- samples: How many pages were measured
-- p50: Half of them were no worse
-- p75: Three quarters of them were no worse
-- p95: 95 % of them were no worse
-- rating: good, fair or poor, by p75
SELECT
    v.page AS page,
    v.vital AS vital,
    count() AS samples,
    quantile(0.5)(assumeNotNull(v.value)) AS p50,
    quantile(0.75)(assumeNotNull(v.value)) AS p75,
    quantile(0.95)(assumeNotNull(v.value)) AS p95,
    multiIf(
        p75 <= transform(vital, ['ttfb', 'fcp', 'lcp', 'inp', 'cls'], [800., 1800., 2500., 200., 0.1], 0.), 'good',
        p75 <= transform(vital, ['ttfb', 'fcp', 'lcp', 'inp', 'cls'], [1800., 3000., 4000., 500., 0.25], 0.), 'fair',
        'poor'
    ) AS rating
FROM (
    SELECT
        cutQueryStringAndFragment(e.page_url) AS page,
        arrayJoin(['ttfb', 'fcp', 'lcp', 'inp', 'cls']) AS vital,
        JSONExtract(e.properties, vital, 'Nullable(Float64)') AS value
    FROM events AS e
    WHERE e.event_name = 'web_vitals'
        AND e.timestamp >= {since:DateTime64(6, 'UTC')}
        AND e.timestamp < {until:DateTime64(6, 'UTC')}
) AS v
WHERE v.value IS NOT NULL
GROUP BY v.page, v.vital
