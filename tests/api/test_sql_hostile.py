"""Ways out of the read-only SQL port: all of them are refused, on both kinds of ClickHouse."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.store.sql_guard import allowed
from tests.support.sql import SECRET, Door, serve_sql

#: What ClickHouse or the guard says of them: syntax, no such thing, not to be changed, not allowed.
REFUSALS = {36, 47, 48, 60, 62, 63, 73, 80, 81, 164, 497}
FILE = "/etc/hostname"


@pytest.fixture(scope="module", params=["server", "embedded"])
def door(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    yield from serve_sql(request, tmp_path_factory.mktemp("sql"))


# Each is a statement; {f} is a file that is there, {o} one that must not come to be, {d} the other database.
READS_FILES = """
SELECT file('{f}')
SELECT FILE('{f}')
SELECT `file`('{f}')
SELECT "file"('{f}')
SELECT/**/file/**/('{f}')
SELECT file -- comment
('{f}')
SELECT fi/**/le('{f}')
SELECT 1 WHERE file('{f}') != ''
SELECT (SELECT file('{f}'))
SELECT * FROM (SELECT file('{f}'))
WITH x AS (SELECT file('{f}')) SELECT * FROM x
WITH file('{f}') AS x SELECT x
WITH RECURSIVE x AS (SELECT file('{f}') AS v UNION ALL SELECT v FROM x WHERE 0) SELECT * FROM x
SELECT 1 UNION ALL SELECT length(file('{f}'))
SELECT 1 INTERSECT SELECT length(file('{f}'))
SELECT 1 IN (SELECT length(file('{f}')))
SELECT EXISTS(SELECT file('{f}'))
SELECT '{f}' AS x, x APPLY(file)
SELECT * APPLY(file) FROM (SELECT '{f}')
SELECT * APPLY(x -> file(x)) FROM (SELECT '{f}')
SELECT COLUMNS('x') APPLY file FROM (SELECT '{f}' AS x)
SELECT * REPLACE(file('{f}') AS x) FROM (SELECT '{f}' AS x)
SELECT arrayMap(x -> file(x), ['{f}'])
SELECT arrayMap(file, ['{f}'])
SELECT arrayMap(`file`, ['{f}'])
SELECT arrayMap({{file:Identifier}}, ['{f}'])
WITH file AS g SELECT arrayMap(g, ['{f}'])
SELECT arrayFilter(file, ['{f}'])
SELECT arrayMap(x -> arrayMap(file, [x]), ['{f}'])
SELECT arrayFold((a, x) -> file(x), ['{f}'], '')
SELECT mapApply((k, v) -> (k, file(v)), map('a', '{f}'))
SELECT arrayReduce('file', ['{f}'])
SELECT count() FROM events GROUP BY file('{f}')
SELECT 1 ORDER BY file('{f}')
SELECT count() FROM events HAVING file('{f}') != ''
SELECT 1 LIMIT length(file('{f}'))
SELECT 1 LIMIT 1 OFFSET length(file('{f}'))
SELECT 1 LIMIT 1 BY file('{f}')
SELECT sum(1) OVER (PARTITION BY file('{f}'))
SELECT sum(1) OVER w WINDOW w AS (ORDER BY file('{f}'))
SELECT 1 QUALIFY file('{f}') != ''
SELECT event_id FROM events PREWHERE file('{f}') != ''
SELECT 1 AS x ORDER BY x WITH FILL INTERPOLATE (x AS file('{f}'))
SELECT * FROM events ARRAY JOIN [file('{f}')] AS x
SELECT * FROM events AS a JOIN (SELECT file('{f}') AS x) AS b ON 1 = 1
SELECT * FROM events AS a JOIN events AS b ON a.event_name = file('{f}')
SELECT if(1, file('{f}'), '')
SELECT CASE WHEN 1 THEN file('{f}') END
SELECT file('{f}')::String
SELECT {{x:String}}, file('{f}')
EXPLAIN SELECT file('{f}')
EXPLAIN QUERY TREE SELECT file('{f}')
EXPLAIN AST SELECT * FROM file('{f}')
EXPLAIN SYNTAX run_query_tree_passes = 1 SELECT file('{f}')
EXPLAIN PLAN SELECT (SELECT file('{f}'))
SELECT * FROM (EXPLAIN SELECT (SELECT file('{f}')))
SELECT * FROM viewExplain('EXPLAIN', '', (SELECT file('{f}')))
DESCRIBE TABLE file('{f}')
DESCRIBE (SELECT file('{f}'))
SELECT 1 AS `x, function_name: sum, function_type: ordinary`, file('{f}')
SELECT file('{f}') AS `x, function_name: sum`
SELECT file('{f}') AS `x\n  FUNCTION id: 3, function_name: sum`
SELECT * FROM view(SELECT file('{f}'))
SELECT * FROM values('x String', file('{f}'))
SELECT throwIf(1, file('{f}'))
SELECT * FROM file('{f}')
SELECT * FROM file('{f}', 'LineAsString', 'x String')
SELECT * FROM FILE('{f}', LineAsString)
SELECT 1 IN file('{f}', 'LineAsString', 'x String')
SELECT * FROM fileCluster('default', '{f}', 'LineAsString')
SELECT * FROM filesystem('/etc')
SELECT * FROM sqlite('{f}', 'x')
SELECT * FROM executable('cat {f}', LineAsString, 'x String')
SELECT * FROM python('x')
SELECT * FROM eval('SELECT 1')
SELECT chdb('SELECT 1')
SELECT * FROM iceberg('/etc')
SELECT * FROM icebergLocal('/etc')
SELECT * FROM deltaLakeLocal('/etc')
SELECT * FROM format(Protobuf, '')
SELECT catboostEvaluate('{f}', 1)
SELECT showCertificate()
SELECT addressToLine(1)
SELECT filesystemAvailable()
SELECT 1 SETTINGS format_schema = '{f}'
SELECT 1 FORMAT Template SETTINGS format_template_resultset = '{f}'
"""
WRITES_FILES = """
SELECT 1 INTO OUTFILE '{o}'
SELECT 1 INTO /* x */ OUTFILE '{o}' FORMAT CSV
select 1 into outfile '{o}' truncate
SELECT 1 INTO OUTFILE '{o}' APPEND FORMAT TSV
SELECT 1 INTO OUTFILE '{o}' AND STDOUT
SELECT 1 INTO OUTFILE '{o}' COMPRESSION 'gzip' FORMAT TSV
(SELECT 1) INTO OUTFILE '{o}'
SELECT 1 UNION ALL SELECT 2 INTO OUTFILE '{o}'
SELECT * FROM (SELECT 1 INTO OUTFILE '{o}')
WITH 1 AS x SELECT x INTO OUTFILE '{o}' SETTINGS max_threads = 1
SHOW TABLES INTO OUTFILE '{o}'
SHOW TABLES INTO OUTFILE '{o}' FORMAT CSV
DESCRIBE events INTO OUTFILE '{o}'
EXISTS events INTO OUTFILE '{o}'
EXPLAIN SELECT 1 INTO OUTFILE '{o}'
EXPLAIN AST SELECT 1 INTO OUTFILE '{o}'
SELECT ' FORMAT ' INTO OUTFILE '{o}' FORMAT CSV
SELECT 1 FORMAT CapnProto SETTINGS output_format_schema = '{o}'
INSERT INTO FUNCTION file('{o}', 'TSV', 'x UInt8') VALUES (1)
INSERT INTO TABLE FUNCTION file('{o}', 'TSV', 'x UInt8') SELECT 1
BACKUP TABLE events TO File('{o}')
"""
OTHER_DATABASES = """
SELECT * FROM {d}.secrets
SELECT * FROM `{d}`.`secrets`
SELECT * FROM "{d}"."secrets"
SELECT * FROM {d} . secrets
SELECT * FROM {d}/**/./**/secrets
SELECT {d}.secrets.word FROM {d}.secrets
SELECT 1 IN {d}.secrets
SELECT 1 WHERE 'x' NOT IN ({d}.secrets)
SELECT 'x' IN (SELECT word FROM {d}.secrets)
SELECT (SELECT word FROM {d}.secrets LIMIT 1)
WITH x AS (SELECT * FROM {d}.secrets) SELECT * FROM x
WITH (SELECT word FROM {d}.secrets) AS x SELECT x
SELECT * FROM events, {d}.secrets
SELECT * FROM events CROSS JOIN {d}.secrets
SELECT * FROM events GLOBAL ANY LEFT JOIN {d}.secrets ON 1 = 1
SELECT * FROM {d}.secrets FINAL
SELECT * FROM {d}.secrets AS `x, identifier: events`
FROM {d}.secrets SELECT *
TABLE {d}.secrets
SELECT 1 EXCEPT SELECT word FROM {d}.secrets
SELECT * FROM view(SELECT * FROM {d}.secrets)
SELECT * FROM viewIfPermitted(SELECT * FROM {d}.secrets ELSE null('x UInt8'))
SELECT * FROM merge('{d}', 'secrets')
SELECT * FROM merge(REGEXP('.*'), '.*')
SELECT * FROM loop({d}.secrets)
SELECT * FROM loop('{d}', 'secrets')
SELECT * FROM cluster('default', {d}, secrets)
SELECT * FROM clusterAllReplicas('default', '{d}.secrets')
SELECT * FROM remote('127.0.0.1', {d}.secrets)
SELECT * FROM remote('127.0.0.1', view(SELECT 1))
SELECT * FROM remoteSecure('127.0.0.1', '{d}.secrets')
SELECT * FROM mergeTreeIndex('{d}', 'secrets')
SELECT * FROM mergeTreeProjection('{d}', 'secrets', 'p')
SELECT dictGet('{d}.words', 'n', 'x')
SELECT dictGetOrDefault({d}.words, 'n', 'x', 0)
SELECT dictHas('{d}.words', 'x')
SELECT * FROM dictionary('{d}.words')
SELECT * FROM {d}.words
SELECT joinGet('{d}.secrets', 'word', 1)
SELECT hasColumnInTable('{d}', 'secrets', 'word')
EXPLAIN SELECT * FROM {d}.secrets
EXPLAIN ESTIMATE SELECT * FROM {d}.secrets
DESCRIBE {d}.secrets
DESCRIBE TABLE (SELECT * FROM {d}.secrets)
SHOW CREATE TABLE {d}.secrets
SHOW CREATE DATABASE {d}
SHOW CREATE DICTIONARY {d}.words
EXISTS TABLE {d}.secrets
USE {d}
SELECT * FROM {{db:Identifier}}.secrets
SELECT * FROM {{db:Identifier}}.{{t:Identifier}}
SELECT * FROM {{both:Identifier}}
SELECT 1 IN {{both:Identifier}}
SELECT {{file:Identifier}}('{f}')
"""
SYSTEM = """
SELECT * FROM system.users
SELECT * FROM `system`.`users`
SELECT * FROM system.grants
SELECT * FROM system.roles
SELECT * FROM system.query_log
SELECT * FROM system.text_log
SELECT * FROM system.server_settings
SELECT * FROM system.named_collections
SELECT * FROM system.user_directories
SELECT * FROM system.clusters
SELECT * FROM system.macros
SELECT * FROM system.disks
SELECT * FROM system.certificates
SELECT * FROM system.dictionaries
SELECT * FROM system.stack_trace
SELECT * FROM system.zookeeper WHERE path = '/'
SELECT * FROM system.dns_cache
SELECT * FROM system.user_processes
SELECT * FROM system.detached_parts
SELECT * FROM system.nosuch
SELECT 1 FROM system.one, system.users
SELECT * FROM merge('system', 'users')
SELECT * FROM system.`one` WHERE 1 IN (SELECT 1 FROM system.users)
SELECT getMacro('x')
SELECT getServerSetting('users_to_ignore_early_memory_limit_check')
SHOW GRANTS
SHOW ACCESS
SHOW USERS
SHOW CLUSTERS
SHOW DICTIONARIES
SHOW MERGES
SHOW PROCESSLIST
SHOW CREATE USER default
SHOW TABLES WHERE file('{f}') != ''
SHOW TABLES WHERE name IN (SELECT word FROM {d}.secrets)
SHOW COLUMNS FROM events WHERE file('{f}') != ''
SHOW FILESYSTEM CACHES
SHOW PRIVILEGES
"""
WRITES = """
INSERT INTO events (event_name) VALUES ('x')
INSERT INTO events SELECT * FROM events
CREATE TABLE x (y UInt8) ENGINE = Memory
CREATE TEMPORARY TABLE x (y UInt8)
CREATE VIEW x AS SELECT 1
CREATE MATERIALIZED VIEW x ENGINE = Memory AS SELECT 1
CREATE DATABASE x
CREATE FUNCTION x AS (y) -> file(y)
CREATE DICTIONARY x (a UInt8) PRIMARY KEY a SOURCE(FILE(PATH '{f}' FORMAT 'TSV')) LAYOUT(FLAT()) LIFETIME(0)
CREATE USER x
CREATE NAMED COLLECTION x AS a = 1
DROP TABLE events
DROP/**/TABLE events
DROP DATABASE {d}
TRUNCATE TABLE events
RENAME TABLE events TO x
EXCHANGE TABLES events AND client_ids
ALTER TABLE events DELETE WHERE 1
DELETE FROM events WHERE 1
UPDATE events SET event_name = 'x' WHERE 1
OPTIMIZE TABLE events FINAL
DETACH TABLE events
ATTACH TABLE x UUID '00000000-0000-0000-0000-000000000000' (a UInt8) ENGINE = Memory
UNDROP TABLE x
GRANT ALL ON *.* TO default
REVOKE ALL ON *.* FROM default
SET readonly = 0
SET max_memory_usage = 0
SET ROLE DEFAULT
SYSTEM SHUTDOWN
SYSTEM DROP DNS CACHE
SYSTEM RELOAD CONFIG
SYSTEM FLUSH LOGS
KILL QUERY WHERE 1
KILL MUTATION WHERE 1
BEGIN TRANSACTION
COMMIT
CHECK TABLE events
EXECUTE AS default SELECT 1
RESTORE TABLE x FROM File('x')
MOVE USER x TO y
EXPLAIN INSERT INTO events SELECT * FROM events
SELECT 1 PARALLEL WITH DROP TABLE events
SELECT 1; DROP TABLE events
SELECT 1;;SELECT 2
SELECT 1 -- ;
; DROP TABLE events
SELECT 1) UNION ALL (SELECT file('{f}')
SELECT 1)) -- (
"""
ELSEWHERE = """
SELECT * FROM url('http://127.0.0.1:1/', LineAsString)
SELECT * FROM url('file://{f}', LineAsString)
SELECT * FROM urlCluster('default', 'http://127.0.0.1:1/')
SELECT * FROM s3('http://127.0.0.1:1/x')
SELECT * FROM s3Cluster('default', 'http://127.0.0.1:1/x')
SELECT * FROM gcs('http://127.0.0.1:1/x')
SELECT * FROM oss('http://127.0.0.1:1/x')
SELECT * FROM cosn('http://127.0.0.1:1/x')
SELECT * FROM hdfs('hdfs://127.0.0.1:1/x')
SELECT * FROM azureBlobStorage('x', 'y', 'z')
SELECT * FROM mysql('127.0.0.1:1', 'a', 'b', 'c', 'd')
SELECT * FROM postgresql('127.0.0.1:1', 'a', 'b', 'c', 'd')
SELECT * FROM mongodb('127.0.0.1:1', 'a', 'b', 'c', 'd', 'e')
SELECT * FROM redis('127.0.0.1:1', 'a', 'b')
SELECT * FROM jdbc('a', 'b', 'c')
SELECT * FROM odbc('a', 'b', 'c')
SELECT * FROM hudi('http://127.0.0.1:1/x')
SELECT * FROM deltaLake('http://127.0.0.1:1/x')
SELECT * FROM arrowflight('127.0.0.1:1', 'x')
SELECT * FROM input('x UInt8')
SELECT aiGenerate('x', 'y')
SELECT 1 FORMAT AvroConfluent SETTINGS format_avro_schema_registry_url = 'http://127.0.0.1:1/'
SELECT 1 FORMAT MySQLWire
SELECT 1 FORMAT PostgreSQLWire
"""
LIMITS = """
SELECT 1 SETTINGS readonly = 0
SELECT 1 SETTINGS readonly = 2
SELECT 1 SETTINGS max_memory_usage = 0
SELECT 1 SETTINGS max_execution_time = 0
SELECT 1 SETTINGS max_execution_time = 1000000
SELECT * FROM (SELECT 1 SETTINGS max_memory_usage = 0)
SELECT 1 UNION ALL SELECT 1 SETTINGS max_memory_usage = 0
SELECT 1 IN (SELECT 1 SETTINGS readonly = 0)
WITH x AS (SELECT 1 SETTINGS max_execution_time = 0) SELECT * FROM x
EXPLAIN SELECT 1 SETTINGS readonly = 0
SELECT 1 SETTINGS max_parser_depth = 7
SELECT 1 SETTINGS additional_table_filters = {{}}
SELECT 1 SETTINGS enable_analyzer = 0
SELECT 1 SETTINGS format_display_secrets_in_show_and_select = 1
SELECT 1 SETTINGS log_comment = 'x'
SELECT 1 FORMAT TSV SETTINGS max_memory_usage = 0
SELECT 1 SETTINGS allow_ddl = 0
"""
CORPUS = {
    name: [one.replace("\x01", "\n") for one in text.strip().replace("\\n", "\x01").splitlines()]
    for name, text in {
        "read files": READS_FILES.replace("-- comment\n", "-- comment\\n"),
        "write files": WRITES_FILES,
        "read other databases": OTHER_DATABASES,
        "read secrets of system": SYSTEM,
        "write": WRITES.replace("-- ;\n;", "-- ;\\n;"),
        "reach other servers": ELSEWHERE,
        "lift limits": LIMITS,
    }.items()
}
#: Settings in the address.
SETTINGS = {
    "allow_ddl": "1", "allow_introspection_functions": "1", "additional_table_filters": "{}",
    "max_untracked_memory": "1",
    "format_schema": FILE, "format_template_resultset": FILE, "output_format_schema": "/tmp/x", "max_threads_": "1",
    "format_display_secrets_in_show_and_select": "1", "additional_result_filter": "1", "profile": "default",
    "format_avro_schema_registry_url": "http://127.0.0.1:1/", "wait_for_async_insert": "1", "database ": "system",
    "schema_inference_hints": "x", "insert_deduplication_token": "x", "max_temporary_data_on_disk_size_for_query": "0",
}  # fmt: skip


@pytest.mark.parametrize("way", CORPUS)
def test_hostile_statements_are_refused(door: Door, way: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    parameters = {"param_db": door.other, "param_t": "secrets", "param_both": f"{door.other}.secrets"}
    parameters |= {"param_x": "x", "param_file": "file"}
    let_in = []
    for one in CORPUS[way]:
        statement = one.format(f=FILE, o=out, d=door.other)
        answer = door.ask(statement, **parameters)
        if answer.code not in REFUSALS or answer.status < 400 or SECRET in answer.text:
            let_in.append(f"{statement}: {answer.status} {answer.text[:200]}")
    assert not let_in
    assert not out.exists()
    assert door.value("SELECT count() FROM events") == "100"


@pytest.mark.parametrize("name", SETTINGS)
def test_hostile_settings_are_refused(door: Door, name: str) -> None:
    answer = door.ask("SELECT 1", **{name: SETTINGS[name]})
    assert answer.code == 164


def test_limits_of_the_operator_are_the_highest(door: Door) -> None:
    sql = "SELECT getSetting('max_memory_usage'), getSetting('max_execution_time'), getSetting('readonly')"
    assert door.value(sql, max_memory_usage=0, max_execution_time=0, readonly=0).split("\t")[0] == str(2**30)
    assert door.value(sql, max_memory_usage=2**40, max_execution_time=10**6) == f"{2**30}\t300\t1"
    assert door.value(sql, max_memory_usage=2**25, max_execution_time=2) == f"{2**25}\t2\t1"


def test_the_tables_of_system_tell_of_the_events_alone(door: Door) -> None:
    for sql in (
        "SELECT DISTINCT database FROM system.tables",
        "SELECT DISTINCT database FROM system.columns",
        "SELECT DISTINCT t.database FROM system.one, (SELECT * FROM system.tables) AS t",
        "WITH t AS (SELECT database FROM system.tables AS x) SELECT DISTINCT * FROM t",
        "SELECT DISTINCT database FROM (FROM system.tables SELECT * UNION ALL FROM system.tables SELECT *)",
        "SELECT DISTINCT database FROM system.parts",
        "SELECT name FROM system.databases",
        "SELECT DISTINCT table_schema FROM information_schema.tables",
        "SHOW DATABASES",
    ):
        assert door.value(sql) == door.database, sql
    for sql in ("SHOW TABLES FROM {}", "SHOW COLUMNS FROM secrets FROM {}", "SHOW INDEXES FROM secrets FROM {}"):
        assert door.value(sql.format(door.other)) == "", sql


@pytest.mark.parametrize("database", ["other", "system", "information_schema", "nosuch"])
def test_no_other_database_is_the_current_one(door: Door, database: str) -> None:
    named = door.other if database == "other" else database
    assert door.ask("SELECT * FROM secrets", database=named).code == 497
    by_header = {"X-ClickHouse-Key": "read-token-of-tests", "X-ClickHouse-Database": named}
    assert door.ask("SELECT * FROM secrets", headers=by_header).code == 497


def test_what_may_be_called_is_what_was_looked_at(door: Door) -> None:
    """A function that a newer ClickHouse brings is refused until somebody has looked at it and put it on the list."""
    rows = door.value("SELECT name FROM system.functions WHERE is_aggregate = 0 AND origin = 'System'").split("\n")
    known = {one.lower() for one in allowed("functions") | allowed("aggregate functions")}
    refused = sorted(one for one in rows if one.lower() not in known)
    assert 60 < len(refused) < 200, refused
    assert {"file", "dictGet", "joinGet", "getMacro", "addressToLine"} <= set(refused)
    let_in = [one for one in refused if door.ask(f"SELECT `{one}`(1)").code != 497]
    assert not let_in
