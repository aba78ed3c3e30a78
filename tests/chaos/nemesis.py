"""The nemesis: one fault after the other, each undone before the next, on a table whose rules change as it likes."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable

from tests.chaos.world import POISON, THROWS, World, insert_others
from tests.machine import find
from tests.support import wait_until
from tests.support.disk import Disk
from tests.support.service import ANALYTICS
from tests.support.workers import pids

FATES = ["pass", "cut-body", "cut-answer", "cut-answer", "late-body", "hold-answer"]
#: What people do to the table while no INSERT is on its way (docs/durability.md tells why), and undo again.
TABLE_RULES = [
    f"ALTER TABLE events ADD CONSTRAINT IF NOT EXISTS no_poison CHECK NOT startsWith(session_id, '{POISON}')",
    "ALTER TABLE events DROP CONSTRAINT IF EXISTS no_poison",
]
#: The same, at any time.
VIEW_RULES = [
    "CREATE MATERIALIZED VIEW IF NOT EXISTS chaos_throws TO chaos_thrown"
    f" AS SELECT throwIf(event_name = '{THROWS}') AS x FROM events",
    "DROP VIEW IF EXISTS chaos_throws",
]


class Nemesis:
    """``strike`` again and again."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self._world = world
        self._chance = chance
        self._kinds: list[Callable[[], None]] = [
            self.kill_service, self.kill_service, self.kill_worker, self.kill_worker, self.stop_service,
            self.pause_service, self.kill_clickhouse, self.pause_clickhouse, self.restart_clickhouse,
            self.refuse, self.cut, self.spoil_inserts, self.spoil_inserts, self.spoil_inserts,
            self.kill_both, self.power_cut, self.power_cut, self.power_cut_of_clickhouse, self.power_cut_of_service,
            self.disk_turns_read_only, self.disk_is_full, self.forget_tokens, self.retry_quarantine, self.alter_table,
        ]  # fmt: skip

    def strike(self) -> None:
        """Change a rule perhaps, and after a while any fault."""
        world = self._world
        if self._chance.random() < 0.4:
            world.faults["view_changed"] += world.ask(self._chance.choice(VIEW_RULES))
        self.rest(1.5)
        world.revive()
        if self._chance.random() < 0.3:  # so that it meets an INSERT whose answer nobody hears
            self._spoil()
        fault = self._chance.choice(self._kinds)
        world.faults[fault.__name__] += 1
        fault()

    def rest(self, most: float) -> None:
        """Let it run for a while."""
        time.sleep(self._chance.uniform(0, most))

    def _start_service(self) -> None:
        self._world.start_service(self._chance.choice([None, 1, 2, 3]))

    def _start_both(self) -> None:
        starts: list[Callable[[], object]] = [self._world.server.start, self._start_service]
        self._chance.shuffle(starts)
        for start in starts:
            start()

    def kill_service(self) -> None:
        self._world.kill_service()
        self.rest(0.3)
        self._start_service()

    def kill_worker(self) -> None:
        workers = pids(self._world.service)
        if workers:
            self._world.counts_lost = True
            os.kill(self._chance.choice(workers), signal.SIGKILL)
        else:
            self.kill_service()

    def stop_service(self) -> None:
        assert self._world.service.stop(self._chance.choice([signal.SIGTERM, signal.SIGINT])) == 0
        self._start_service()

    def pause_service(self) -> None:
        self._world.signal_service(signal.SIGSTOP)
        self.rest(3)
        self._world.signal_service(signal.SIGCONT)

    def kill_clickhouse(self) -> None:
        self._world.server.kill()
        self.rest(1)
        self._world.server.start()

    def restart_clickhouse(self) -> None:
        self._world.server.stop()
        self._world.server.start()

    def pause_clickhouse(self) -> None:
        self._world.server.pause()
        self.rest(4)
        self._world.server.resume()

    def kill_both(self) -> None:
        self._world.server.kill()
        self.rest(0.2)
        self._world.kill_service()
        self._start_both()

    def power_cut(self) -> None:
        """Of one machine that has both: nothing of it gets to act on what it sees of the cut."""
        world = self._world
        world.signal_service(signal.SIGSTOP)
        world.server.pause()
        world.spool_disk.cut_power()
        world.server_disk.cut_power()
        world.kill_service()
        world.server.kill()
        _mend(world.spool_disk)
        _mend(world.server_disk)
        self._start_both()

    def power_cut_of_clickhouse(self) -> None:
        world = self._world
        world.server.pause()
        world.server_disk.cut_power()
        world.server.kill()
        _mend(world.server_disk)
        world.server.start()

    def power_cut_of_service(self) -> None:
        world = self._world
        world.signal_service(signal.SIGSTOP)
        world.spool_disk.cut_power()
        world.kill_service()
        _mend(world.spool_disk)
        self._start_service()

    def disk_turns_read_only(self) -> None:
        """With a backlog, which is inserted meanwhile; then a person mends it, which needs a start: files are open."""
        world = self._world
        world.proxy.refuse()
        self.rest(1)
        world.disk_broken = True
        # In mid-sync ext4 would say that it has kept what it has not: docs/durability.md excepts that.
        world.signal_service(signal.SIGSTOP)
        time.sleep(0.3)
        world.spool_disk.turn_read_only()
        world.signal_service(signal.SIGCONT)
        self.rest(0.5)
        world.proxy.open()
        self.rest(3)
        if self._chance.random() < 0.5:
            world.service.stop()
        world.kill_service()
        _mend(world.spool_disk)
        self._start_service()
        world.disk_broken = False

    def disk_is_full(self) -> None:
        world = self._world
        world.disk_broken = True
        world.spool_disk.fill(leave=self._chance.choice([0, 100_000]))
        self.rest(2)
        world.spool_disk.clear()
        self.rest(1)
        world.disk_broken = False

    def refuse(self) -> None:
        self._world.proxy.refuse()
        self.rest(2)
        self._world.proxy.open()

    def cut(self) -> None:
        for _ in range(self._chance.randint(1, 10)):
            self._world.proxy.cut()
            self.rest(0.1)

    def spoil_inserts(self) -> None:
        self._spoil()
        self.rest(1)

    def _spoil(self) -> None:
        self._world.proxy.fates.extend(self._chance.choices(FATES, k=self._chance.randint(1, 5)))

    def forget_tokens(self) -> None:
        """While nothing of ours runs, others insert more than ClickHouse remembers."""
        self._silence()
        self._world.faults["tokens_forgotten"] += insert_others(self._world, 120)
        self._start_service()

    def alter_table(self) -> None:
        """While no INSERT is on its way: docs/durability.md excepts one that its next try finds judged otherwise."""
        self._silence()
        self._world.faults["table_altered"] += self._world.ask(self._chance.choice(TABLE_RULES))
        self._start_service()

    def _silence(self) -> None:
        """No service, and no INSERT of it on its way."""
        world = self._world
        world.kill_service()
        world.proxy.fates.clear()
        world.proxy.cut()
        running = "SELECT throwIf(count() > 0) FROM system.processes WHERE query_kind = 'Insert'"
        wait_until(lambda: world.ask(running) or world.server.died, 20)

    def retry_quarantine(self) -> None:
        """A person who tries again what is in the quarantine, whether the table takes it by now or not."""
        environment = os.environ | {"ANALYTICS_DATA_DIR": str(self._world.service.data)}
        command = [str(ANALYTICS), "quarantine", "retry", "--all"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode in (0, 1), done.stderr
        assert "Traceback" not in done.stderr, done.stderr


def _mend(disk: Disk) -> None:
    """Once nobody holds it: what is unmounted lazily would be mounted again as it is."""
    wait_until(lambda: subprocess.run([find("umount"), disk.folder], capture_output=True).returncode == 0, 20)
    disk.repair()
    disk.mount()
