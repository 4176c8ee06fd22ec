"""The daemon's clockwork: one event loop, one thread that does all work on NICs, in order."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from vfd.config.errors import ConfigError
from vfd.config.main_file import MainConfig
from vfd.daemon import callbacks, stats
from vfd.daemon.exclusive import InUseError
from vfd.daemon.failures import NotFoundError
from vfd.daemon.journal import Journal
from vfd.daemon.managed import Configured
from vfd.daemon.notify import notify, watchdog_seconds
from vfd.daemon.service import Made, Service, Source
from vfd.daemon.watch import handle

log = logging.getLogger("vfd.daemon")

HEARTBEAT = 30.0
"""Seconds between looks at the daemon itself, where systemd doesn't want them oftener."""
RETRY = 30.0
"""Seconds until a NIC that could not be opened is tried again."""
REPAIRS, REPAIR_WINDOW = 20, 10.0
"""Who undoes our repairs oftener than this (in seconds) is answered only once a second: two
programs that fight over a NIC must not take the whole CPU."""

T = TypeVar("T")


class Daemon:
    """Joins the service with the event loop. ``call`` is the only way to the service."""

    def __init__(
        self, service: Service, journal: Journal, read_main: Callable[[], MainConfig]
    ) -> None:
        self.service = service
        self.journal = journal
        self.cpu_alarm = service.main.cpu_alarm
        self.ready = False
        self.stopped = asyncio.Event()
        self._read_main = read_main
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="nic")
        self._watched: dict[str, int] = {}
        self._repairs: deque[float] = deque(maxlen=REPAIRS)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.get_running_loop()
        journal.attach(self._loop)

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Runs ``function`` in the writing thread, after all that was asked before."""
        return await self._loop.run_in_executor(self._writer, function, *args)

    # Life

    async def start(self) -> None:
        """NICs adopted and brought to what the files say. Raises InUseError."""
        opened = await self.call(self.service.start)
        self._watch()
        self._later(self._heartbeat())
        self._later(self._retry())
        self.start_callbacks(opened)
        self.ready = True

    async def reload(self) -> None:
        """SIGHUP: all configuration is read again; a bad ``vfd.cfg`` changes nothing."""
        notify(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))
        try:
            main = self._read_main()
            opened = await self.call(self.service.reload, main)
        except ConfigError as error:
            for problem in error.problems:
                self.journal.emit("bad-file", str(problem), level="error", file=problem.file)
        except (InUseError, OSError) as error:
            self.journal.emit("failed", f"reload: {error}", level="error")
        else:
            self.cpu_alarm = main.cpu_alarm
            self.start_callbacks(opened)
            self.journal.emit("reloaded", "the configuration was read again")
        self._watch()
        notify(READY="1", STATUS=self.status())

    async def stop(self) -> None:
        """Lets go of everything; the NICs go on enforcing."""
        self.ready = False
        notify(STOPPING="1")
        for fd in self._watched.values():
            self._loop.remove_reader(fd)
        self._watched.clear()
        self.journal.close()
        for task in self._tasks:
            task.cancel()
        try:
            async with asyncio.timeout(0.5):
                await self.call(self.service.stop)
        except TimeoutError:
            log.warning("stopping while a NIC is busy: the next start completes what was begun")
        self._writer.shutdown(wait=False, cancel_futures=True)

    def status(self) -> str:
        nics = list(self.service.nics.values())
        vfs = sum(len(managed.vfs) for managed in nics)
        troubled = [managed.id for managed in nics if managed.condition != "ok"]
        text = f"{len(nics)} NICs, {vfs} VFs configured"
        text += f", in trouble: {', '.join(troubled)}" if troubled else ""
        return text + (f", {len(self.service.bad)} bad files" if self.service.bad else "")

    def _later(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Events of NICs

    def _watch(self) -> None:
        """Listens to the NICs that are open now, and no longer to those that aren't."""
        now = {m.id: m.nic.fileno() for m in list(self.service.nics.values()) if m.nic is not None}
        for pf_id, fd in list(self._watched.items()):
            if now.get(pf_id) != fd:
                self._loop.remove_reader(fd)
                del self._watched[pf_id]
        for pf_id, fd in now.items():
            if self._watched.get(pf_id) != fd:
                self._watched[pf_id] = fd
                self._loop.add_reader(fd, self._readable, pf_id, fd)

    def _readable(self, pf_id: str, fd: int) -> None:
        self._loop.remove_reader(fd)
        self._later(self._handle(pf_id, fd))

    async def _handle(self, pf_id: str, fd: int) -> None:
        managed = self.service.nics.get(pf_id)
        if managed is not None:
            try:
                repairs = await self.call(handle, self.service, managed)
            except Exception:
                log.exception("handling events of %s", pf_id)
                repairs = REPAIRS
            if repairs:
                now = time.monotonic()
                self._repairs.extend([now] * min(repairs, REPAIRS))
                if len(self._repairs) == REPAIRS and now - self._repairs[0] < REPAIR_WINDOW:
                    await asyncio.sleep(1)
        if self._watched.get(pf_id) == fd:
            self._loop.add_reader(fd, self._readable, pf_id, fd)

    async def _retry(self) -> None:
        """NICs that could not be opened are tried again; nothing wakes up while there are none."""
        while any(managed.nic is None for managed in self.service.nics.values()):
            await asyncio.sleep(RETRY)
            try:
                self.start_callbacks(await self.call(self.service.retry))
            except InUseError as error:
                log.warning("%s", error)
            self._watch()

    # The daemon itself

    async def _heartbeat(self) -> None:
        """Tells systemd that the writing thread is alive, and minds the daemon's own CPU use."""
        watchdog = watchdog_seconds()
        interval = min(HEARTBEAT, watchdog / 2) if watchdog else HEARTBEAT
        cpu, wall = time.process_time(), time.monotonic()
        while True:
            await asyncio.sleep(interval)
            await self.call(int)
            notify(WATCHDOG="1", STATUS=self.status())
            now_cpu, now_wall = time.process_time(), time.monotonic()
            if self.service.main.stats_path:
                await self.call(stats.write, self.service, Path(self.service.main.stats_path))
            used = (now_cpu - cpu) / (now_wall - wall)
            cpu, wall = now_cpu, now_wall
            if self.cpu_alarm and used > self.cpu_alarm:
                self.journal.emit(
                    "cpu-alarm",
                    f"{self.service.main.cpu_alarm_type} the daemon used {used:.0%} of a CPU over"
                    f" {interval:g} s, more than cpu_alarm ({self.cpu_alarm:.0%})",
                    level="warning",
                    used=round(used, 3),
                )

    # Requests that run callbacks

    async def add(self, source: Source, uid: int, gid: int) -> Made:
        made = await self.call(self.service.add, source, uid, gid)
        self.start_callbacks([self.service.find(made.name)[1]])
        return made

    async def delete(self, name: str) -> Made | None:
        """``stop_cb`` has ended, or its time has, before the VF closes."""
        try:
            _, one = await self.call(self.service.find, name)
        except NotFoundError:
            pass  # perhaps a bad file: the service knows
        else:
            if one.policy.stop_cb:
                await self._run("stop_cb", one.policy.stop_cb, one)
        return await self.call(self.service.delete, name)

    def start_callbacks(self, opened: Iterable[Configured]) -> None:
        """``start_cb`` of VFs that have just come into force; nobody waits for it."""
        for one in opened:
            if one.policy.start_cb:
                self._later(self._run("start_cb", one.policy.start_cb, one))

    async def _run(self, which: Any, command: str, one: Configured) -> None:
        policy = one.policy
        vf = (policy.name, policy.pciid, policy.vfid)
        outcome = await callbacks.run(which, command, one.owner, vf)
        self.journal.emit(
            "callback",
            outcome.text,
            level="info" if outcome.ok else "error",
            pf=policy.pciid,
            vfid=policy.vfid,
            name=policy.name,
        )
