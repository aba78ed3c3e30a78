-- A property as text: a string without its quotes; a number with its digits as they were sent; true or false; empty if it
-- is none of these or not there. The default of a column out of properties is made of it, with the path for PATH, and for
-- IN_DIGITS whether 0.10 must stay 0.10. It never fails: no row is refused for it.
--
-- ClickHouse reads a number of JSON as one of 64 bits, which keeps 15 digits and no more, and of a document with a number
-- beyond its range it reads nothing. Where that would matter, all numbers are first put into quotes, by one pass over the
-- document, and so are true and false. The pass skips strings whole. At the end it leaves quotes behind, which are cut off.
multiIf(
    JSONType(properties, PATH) = 'String',
    JSONExtractString(properties, PATH),
    JSONType(properties, PATH) IN ('Int64', 'UInt64', 'Bool'),
    JSONExtractRaw(properties, PATH),
    JSONType(properties, PATH) = 'Double' AND NOT IN_DIGITS AND NOT match(properties, '[0-9.]{16}'),
    JSONExtractRaw(properties, PATH),
    JSONType(properties, PATH) != 'Double' AND isValidJSON(properties),
    '',
    arrayMap(
        document -> if(JSONType(document, PATH) = 'String', JSONExtractString(document, PATH), ''),
        [trim(TRAILING '"' FROM replaceRegexpAll(
            properties,
            '((?:[^"0-9tf-]|"(?:[^"\\\\]|\\\\.)*")*)(?:(-?[0-9][0-9.eE+-]*|true|false)|$)',
            '\\1"\\2"'
        ))]
    )[1]
)
