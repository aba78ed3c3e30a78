"""Disks that a test may fill, break and cut off: a small tmpfs, and an ext4 in an image file on a loop device."""

import fcntl
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from tests.machine import find, may_mount

#: FS_IOC_SHUTDOWN without a flush: from here on nothing reaches the device, as when the power goes.
_SHUTDOWN, _NO_FLUSH = 0x8004587D, struct.pack("I", 2)


class Disk:
    """A file system of so many megabytes, mounted on ``folder`` from ``mount`` to ``unmount``."""

    def __init__(self, kind: str, folder: Path, megabytes: int, inodes: int | None = None) -> None:
        if not may_mount():
            pytest.fail("the disk tests mount file systems: run them as root")
        self.folder = folder
        self._image = folder.with_name(f"{folder.name}.image") if kind == "ext4" else None
        self._megabytes = megabytes
        self._ballast = folder / "ballast"
        folder.mkdir(parents=True)
        if self._image:
            with self._image.open("wb") as file:
                file.truncate(megabytes * 2**20)
            _run("mkfs.ext4", "-q", "-F", "-m", "0", *(("-N", str(inodes)) if inodes else ()), str(self._image))

    def mount(self) -> "Disk":
        """Mount it; an ext4 that was cut off recovers its journal here."""
        if self._image:
            _run("mount", "-o", "loop,errors=remount-ro", str(self._image), str(self.folder))
        else:
            _run("mount", "-t", "tmpfs", "-o", f"size={self._megabytes}m", "tmpfs", str(self.folder))
        return self

    def unmount(self) -> None:
        """Unmount it; if something still uses it, as soon as that is gone."""
        while os.path.ismount(self.folder):
            if subprocess.run([find("umount"), self.folder], capture_output=True).returncode:
                _run("umount", "--lazy", str(self.folder))

    def cut_power(self) -> None:
        """Lose at once whatever is not on the device yet. Later writes get errors."""
        fd = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, _NO_FLUSH)
        finally:
            os.close(fd)

    def turn_read_only(self) -> None:
        """Do what the kernel does to an ext4 after an error: no more writes, not even to open files."""
        device = _run("findmnt", "--noheadings", "--output", "SOURCE", str(self.folder)).strip()
        Path("/sys/fs/ext4", Path(device).name, "trigger_fs_error").write_text("1")

    def repair(self) -> None:
        """Check the unmounted ext4, as one does after an error."""
        done = subprocess.run([find("e2fsck"), "-p", str(self._image)], capture_output=True, text=True)
        assert done.returncode in (0, 1), done.stdout + done.stderr

    def fill(self, leave: int = 0) -> None:
        """Take all room but ``leave`` bytes."""
        block = bytes(4096)
        with self._ballast.open("ab", buffering=0) as file:
            try:
                while True:
                    if file.write(block) < len(block):
                        break
            except OSError:
                pass
            os.ftruncate(file.fileno(), max(0, os.fstat(file.fileno()).st_size - leave))
            os.fsync(file.fileno())

    def use_up_inodes(self) -> None:
        """Make empty files until there can be no other."""
        self._ballast.mkdir()
        for number in range(10_000):
            try:
                (self._ballast / str(number)).touch()
            except OSError:
                return
        raise AssertionError("there seem to be inodes without end")

    def clear(self) -> None:
        """Give back what ``fill`` or ``use_up_inodes`` took."""
        if self._ballast.is_dir():
            shutil.rmtree(self._ballast)
        else:
            self._ballast.unlink()


def _run(*command: str) -> str:
    done = subprocess.run([find(command[0]), *command[1:]], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout
