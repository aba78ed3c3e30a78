"""Single flight: those who ask at the same time share one query, and nobody gets an answer older than the question."""

import asyncio
import json
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from service.telemetry.single_flight import CachedFlight, SingleFlight
from tests.support import wait_until
from tests.support.clickhouse import ClickHouseServer
from tests.support.proxy import Proxy
from tests.support.service import READ, STATS, Service
from tests.support.wire import connect, head

pytestmark = pytest.mark.quick


class Calls:
    """A call that ends when it is let; it returns its number."""

    def __init__(self) -> None:
        self.begun: list[asyncio.Future[int]] = []
        self._news: asyncio.Queue[asyncio.Future[int]] = asyncio.Queue()

    async def __call__(self) -> int:
        self.begun.append(asyncio.get_running_loop().create_future())
        self._news.put_nowait(self.begun[-1])
        return await self.begun[-1]

    async def begin(self) -> asyncio.Future[int]:
        """The next call, once it has begun."""
        return await asyncio.wait_for(self._news.get(), 5)


async def asks(flight: SingleFlight[int], count: int) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(flight()) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def test_who_asks_while_a_call_is_under_way_shares_the_next_one() -> None:
    calls = Calls()
    flight = SingleFlight(calls)
    first = await asks(flight, 10)
    running = await calls.begin()
    later = await asks(flight, 100)
    running.set_result(0)
    assert await asyncio.gather(*first) == [0] * 10
    (await calls.begin()).set_result(1)
    assert await asyncio.gather(*later) == [1] * 100
    assert len(calls.begun) == 2


async def test_a_failure_reaches_all_who_share_the_call_and_no_other() -> None:
    calls = Calls()
    flight = SingleFlight(calls)
    first = await asks(flight, 3)
    running = await calls.begin()
    later = await asks(flight, 3)
    running.set_exception(ValueError("no"))
    assert [type(one) for one in await asyncio.gather(*first, return_exceptions=True)] == [ValueError] * 3
    (await calls.begin()).set_result(1)
    assert await asyncio.gather(*later) == [1] * 3


async def test_one_who_is_cancelled_leaves_the_call_to_the_others() -> None:
    calls = Calls()
    flight = SingleFlight(calls)
    leaving, staying = await asks(flight, 2)
    running = await calls.begin()
    leaving.cancel()
    await asyncio.wait([leaving])
    running.set_result(0)
    assert leaving.cancelled()
    assert await staying == 0


async def test_closing_ends_what_is_under_way() -> None:
    calls = Calls()
    flight = SingleFlight(calls)
    first = await asks(flight, 1)
    await calls.begin()
    later = await asks(flight, 1)
    await flight.close()
    with pytest.raises(asyncio.CancelledError):
        await first[0]
    with pytest.raises(asyncio.CancelledError):
        await later[0]
    assert len(calls.begun) == 1


async def test_a_kept_result_is_shared_until_its_time_is_over() -> None:
    calls = Calls()
    kept = CachedFlight(calls, seconds=60, times=0)
    asking = [asyncio.create_task(kept()) for _ in range(10)]
    running = await calls.begin()
    later = [asyncio.create_task(kept()) for _ in range(10)]
    await asyncio.sleep(0)
    running.set_result(0)
    assert await asyncio.gather(*asking, *later) == [0] * 20
    assert await kept() == 0
    assert len(calls.begun) == 1


async def test_a_result_that_took_long_is_kept_longer_and_one_that_took_no_time_is_not() -> None:
    calls = Calls()
    slow, quick = CachedFlight(calls, seconds=0, times=1e9), CachedFlight(calls, seconds=0, times=0)
    for kept, cost in ((slow, 1), (quick, 2)):
        calls.begun.clear()
        for number in range(2):
            asking = asyncio.create_task(kept())
            if number < cost:
                (await calls.begin()).set_result(number)
            await asking
        assert len(calls.begun) == cost


async def test_a_failure_is_not_kept() -> None:
    calls = Calls()
    kept = CachedFlight(calls, seconds=60, times=0)
    asking = asyncio.create_task(kept())
    (await calls.begin()).set_exception(ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        await asking
    asking = asyncio.create_task(kept())
    (await calls.begin()).set_result(1)
    assert await asking == 1


def test_five_hundred_dashboards_cost_three_queries_at_most(
    make_service: Callable[..., Service], own_server: ClickHouseServer
) -> None:
    proxy = Proxy(own_server.port).open()
    service = make_service(proxy.dsn(own_server.dsn("analytics"))).start()
    assert service.post({"event_name": "seen"}).status == 200
    service.wait_for_total(1)
    before = proxy.statistics
    with ExitStack() as stack:
        dashboards = [stack.enter_context(connect(service)) for _ in range(500)]
        own_server.pause()
        for one in dashboards:
            one.sendall(head("Connection: close", method="GET", path=STATS, token=READ))
        wait_until(lambda: proxy.statistics > before)
        for _ in range(2):  # behind all of them
            assert service.get("/livez").status == 200
        own_server.resume()
        for one in dashboards:
            with one.makefile("rb") as answer:
                status, _, rest = answer.read().partition(b"\r\n")
            assert status == b"HTTP/1.1 200 OK"
            assert json.loads(rest.partition(b"\r\n\r\n")[2])["total_events"] == 1
    assert proxy.statistics - before <= 3
    service.stop()
    proxy.close()


def test_a_failure_of_clickhouse_is_told_to_all_who_ask(
    make_service: Callable[..., Service], server_dsn: str, proxy: Proxy
) -> None:
    service = make_service(proxy.dsn(server_dsn)).start()
    service.wait_for_total(0)
    proxy.refuse()
    with ExitStack() as stack:
        dashboards = [stack.enter_context(connect(service)) for _ in range(20)]
        for one in dashboards:
            one.sendall(head("Connection: close", method="GET", path=STATS, token=READ))
        for one in dashboards:
            with one.makefile("rb") as answer:
                assert answer.read().startswith(b"HTTP/1.1 503 ")
    proxy.open()
    service.wait_for_total(0)
