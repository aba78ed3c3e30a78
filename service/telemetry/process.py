"""What the process and its disk use. Read on a thread of its own, since a disk may be slow."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from prometheus_client import ProcessCollector

from service.part import Part


class ProcessUsage(Part):
    """The values that ``refresh`` found last. If the disk does not answer, they stay as they were."""

    def __init__(self, folder: Path) -> None:
        #: Bytes of the disk of ``folder``: free for us, and in all. None if unknown.
        self.disk_free: int | None = None
        self.disk_size: int | None = None
        #: What the process uses, by name of the metric.
        self.process: dict[str, float] = {}
        self._folder = folder
        self._collector = ProcessCollector(registry=None)
        self._thread = ThreadPoolExecutor(1, "usage")

    async def refresh(self) -> None:
        """Bring the values up to date."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._read)

    async def close(self) -> None:
        """Release the thread."""
        self._thread.shutdown(wait=False)

    def _read(self) -> None:
        try:
            families = list(self._collector.collect())
        except ValueError:  # a limit that is not a number
            families = []
        self.process = {sample.name: sample.value for family in families for sample in family.samples}
        try:
            disk = os.statvfs(self._folder)
        except OSError:
            self.disk_free = self.disk_size = None
        else:
            self.disk_free, self.disk_size = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
