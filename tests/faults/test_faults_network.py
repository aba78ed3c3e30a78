"""Between the service and ClickHouse: cut, held back, answered by someone else. Every event comes once all the same."""

from collections.abc import Callable

import pytest

from tests.support import wait_until
from tests.support.checks import check, drained, sessions, wait_for_health
from tests.support.clickhouse import ClickHouseServer
from tests.support.load import Load
from tests.support.proxy import Proxy
from tests.support.service import HEALTH, STATS, Service, patched

Make = Callable[..., Service]
#: An insert is given up after a second and not after a minute, and tried again soon.
IMPATIENT = patched("service.store.store.INSERT_TIMEOUT = 1.0; service.pipeline.lane.BACKOFF_MAX = 0.2")


def page(status: str, body: str, *headers: str) -> str:
    """An answer of HTTP."""
    return "\r\n".join([f"HTTP/1.1 {status}", "Connection: close", f"Content-Length: {len(body)}", *headers, "", body])


EXCEPTION = "Code: 241. DB::Exception: Memory limit exceeded. (MEMORY_LIMIT_EXCEEDED) (version 26.7.3)\n"
SUMMARY = 'X-ClickHouse-Summary: {"read_rows":"0","written_rows":"0"}'
ANSWERS = {
    "200 with an exception in a header": page("200 OK", EXCEPTION, "X-ClickHouse-Exception-Code: 241"),
    "200 with an exception in the body": page("200 OK", EXCEPTION, SUMMARY),
    "200 with an exception after the rows were counted": page(
        "200 OK", EXCEPTION, SUMMARY.replace('"0"', '"9999999"'), "X-ClickHouse-Exception-Code: 241"
    ),
    "200 of someone else": page("200 OK", "hello"),
    "429": page("429 Too Many Requests", "slow down", "Retry-After: 1"),
    "500 too many parts": page(
        "500 Internal Server Error",
        "Code: 252. DB::Exception: Too many parts (3000). Merges are processing slower than inserts. (TOO_MANY_PARTS)",
        "X-ClickHouse-Exception-Code: 252",
    ),
    "500 disk full": page(
        "500 Internal Server Error",
        "Code: 243. DB::Exception: Cannot reserve 1.00 MiB. (NOT_ENOUGH_SPACE)",
        "X-ClickHouse-Exception-Code: 243",
    ),
    "500 table is read-only": page(
        "500 Internal Server Error",
        "Code: 242. DB::Exception: Table is in readonly mode. (TABLE_IS_READ_ONLY)",
        "X-ClickHouse-Exception-Code: 242",
    ),
    "500 of no known code": page(
        "500 Internal Server Error", "Code: 99999. DB::Exception: New.", "X-ClickHouse-Exception-Code: 99999"
    ),
    "503": page("503 Service Unavailable", "no healthy upstream"),
    "504 cut short": "HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 100\r\n\r\nhalf",
    "half a status line": "HTTP/1.",
}


@pytest.mark.parametrize("stored", ["answer", "instead"], ids=["stored", "not stored"])
def test_an_insert_that_is_not_confirmed_is_tried_again_until_it_is_and_stored_once(
    make_service: Make, server_dsn: str, proxy: Proxy, stored: str
) -> None:
    """A fake only in the answer, which the real server can't be made to give; it stores the rows, or gets none."""
    service = make_service(proxy.dsn(server_dsn)).start(prefix=IMPATIENT)
    with Load(service, pause=0.01) as load:
        for answer in ANSWERS.values():
            proxy.fates.append(f"{stored} {answer}")
        wait_until(lambda: not proxy.fates, 60)
        load.wait_for_more(1)
    check(service, load, server_dsn)
    assert proxy.met.count("pass") >= 1
    assert not load.refused | load.unknown
    assert not (service.data / "quarantine").exists() or not list((service.data / "quarantine").iterdir())


def test_a_connection_cut_in_mid_body_or_before_the_answer_makes_no_event_come_twice_or_never(
    make_service: Make, server_dsn: str, proxy: Proxy
) -> None:
    service = make_service(proxy.dsn(server_dsn)).start(prefix=IMPATIENT)
    proxy.fates += ["cut-body", "cut-answer", "pass", "cut-answer", "cut-answer", "cut-body", "cut-body", "pass"] * 3
    with Load(service, batch=20, pause=0.01) as load:
        wait_until(lambda: not proxy.fates, 60)
    check(service, load, server_dsn)
    assert not load.refused | load.unknown


@pytest.mark.parametrize("fate", ["hold-answer", "late-body"])
def test_an_insert_given_up_that_arrives_late_after_its_second_try_is_stored_once(
    make_service: Make, server_dsn: str, proxy: Proxy, fate: str
) -> None:
    service = make_service(proxy.dsn(server_dsn)).start(prefix=IMPATIENT)
    proxy.fates += [fate, "pass", fate, fate]
    with Load(service, pause=0.01) as load:
        wait_until(lambda: not proxy.fates, 30)
        degraded = wait_for_health(service, "degraded")
        assert "did not answer within 1 s" in degraded["clickhouse"]["reason"]
        load.wait_for_more(100)
        wait_for_health(service, "ok")
    check(service, load, server_dsn)
    wait_until(lambda: proxy.late == proxy.met.count("late-body"))
    load.check(sessions(server_dsn))


def test_a_stop_while_an_insert_hangs_ends_in_time_and_the_next_start_stores_it_once(
    make_service: Make, server_dsn: str, proxy: Proxy
) -> None:
    service = make_service(proxy.dsn(server_dsn), ANALYTICS_SHUTDOWN_TIMEOUT=1).start()
    proxy.fates.append("hold-answer")
    with Load(service, pause=0.01) as load:
        wait_until(lambda: proxy.met)
        load.wait_for_more(50)
        assert service.stop(seconds=20) == 0
    service.start()
    check(service, load, server_dsn)


def test_what_clickhouse_stored_and_could_not_say_before_it_was_killed_is_stored_once(
    make_service: Make, own_server: ClickHouseServer
) -> None:
    """The tokens outlive the server: the second try meets another process than the first."""
    proxy = Proxy(own_server.port).open()
    dsn = own_server.dsn("analytics")
    service = make_service(proxy.dsn(dsn)).start()
    try:
        with Load(service, pause=0.01) as load:
            for _ in range(3):
                proxy.fates.append("cut-answer, refuse")
                wait_until(lambda: proxy.refuses)
                wait_until(lambda: service.get(HEALTH).json["status"] == "degraded")
                own_server.kill()
                own_server.start()
                proxy.open()
                wait_until(lambda: service.get(STATS).status == 200)
        check(service, load, dsn)
    finally:
        proxy.close()


def test_clickhouse_killed_during_inserts_again_and_again_loses_and_doubles_nothing(
    make_service: Make, own_server: ClickHouseServer
) -> None:
    dsn = own_server.dsn("analytics")
    service = make_service(dsn, ANALYTICS_FLUSH_INTERVAL=0.01, ANALYTICS_BATCH_SIZE=100).start()
    with Load(service, batch=20, pause=0.01) as load:
        for _ in range(4):
            load.wait_for_more(1000)
            own_server.kill()
            own_server.start()
    drained(service)
    check(service, load, dsn)
    assert not load.refused | load.unknown
