"""The daemon's clockwork: one event loop, one thread that does all work on NICs, in order."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from vfd.config.errors import ConfigError, Problem
from vfd.config.main_file import MainConfig, ParsedMain
from vfd.daemon import callbacks, pfs, stats
from vfd.daemon.aim import Configured
from vfd.daemon.failures import ConflictError, NotFoundError
from vfd.daemon.flood import Flood
from vfd.daemon.guests import decide_again
from vfd.daemon.journal import Journal
from vfd.daemon.notify import notify, watchdog_seconds
from vfd.daemon.reading import Reading
from vfd.daemon.request import Made
from vfd.daemon.service import Service
from vfd.daemon.watch import handle
from vfd.plan.changes import Change
from vfd.policy.shown import plural

log = logging.getLogger("vfd.daemon")

LOOK = 30.0
"""Seconds between looks at the daemon itself."""
RETRY, RETRY_AT_LAST = 1.0, 30.0
"""Seconds until a NIC in trouble is tried again: at first, and after some doublings."""
PATIENCE = 300.0
"""Seconds for which a NIC may keep the NIC thread busy before systemd's watchdog takes the daemon
for dead: a driver that makes many VFs takes a minute or two."""
BREATH = 0.01
"""At most as many seconds pass between two looks at what a NIC tells: requests come in between, and
what a guest does meanwhile as fast as it can is looked at once."""
TOLD = 20
"""Callbacks of one VF whose end and output are told at once, then one in 5 s."""
FILES_PATIENCE = 1.0
"""Seconds for which a table waits for what files say by now."""
STARTING = 8
"""``start_cb`` that run at a time: after a start there may be as many to run as there are VFs."""
REPAIRS, REPAIR_WINDOW = 20, 10.0
"""Who undoes a NIC's repairs oftener than this (in seconds) waits for the next one until NICs in
trouble are tried again: two programs that fight over a NIC must not take the whole CPU. Its guests
are answered meanwhile."""

T = TypeVar("T")


class Daemon:
    """Joins the service with the event loop. ``call`` is the only way to the service."""

    def __init__(
        self,
        service: Service,
        journal: Journal,
        read_main: Callable[[], ParsedMain],
        log_as: Callable[[MainConfig], None],
    ) -> None:
        """``log_as`` has the log kept as a new main configuration says."""
        self.service = service
        self.journal = journal
        self.cpu_alarm = service.main.cpu_alarm
        self.ready = False
        self.stopped = asyncio.Event()
        self._started_with = service.main
        self._read_main = read_main
        self._log_as = log_as
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="nic")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="files")
        self._looker = ThreadPoolExecutor(1, thread_name_prefix="look")
        self._looking: asyncio.Future[dict[str, str]] | None = None
        self._reloading = asyncio.Lock()
        self._watched: dict[str, int] = {}
        self._repairs: defaultdict[str, deque[float]] = defaultdict(partial(deque, maxlen=REPAIRS))
        """When each NIC was repaired last."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._mending = False
        self._doing = ""
        self._stopping: set[str] = set()
        self._starting = asyncio.Semaphore(STARTING)
        self._to_start: dict[str, asyncio.Task[None]] = {}
        """``start_cb`` that wait for others to end, by the VF's name."""
        self._started: dict[str, asyncio.Task[None]] = {}
        """Those that run."""
        self._ran = Flood(TOLD)
        self._loop = asyncio.get_running_loop()
        journal.attach(self._loop)

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Runs ``function`` in the writing thread, after all that was asked before. VFs that it
        brought into force get their ``start_cb``, for which nobody waits."""

        def noting() -> T:
            self._doing = getattr(getattr(function, "func", function), "__qualname__", "")
            try:
                return function(*args)
            finally:
                self._decide_again()
                if opened := self.service.came_into_force():
                    self._loop.call_soon_threadsafe(self._start_callbacks, opened)

        try:
            return await self._loop.run_in_executor(self._writer, noting)
        finally:
            self.mind()

    def _decide_again(self) -> None:
        """Whatever was done may have been the end of what guests' wishes were refused for."""
        try:
            decide_again(self.service)
        except Exception:
            log.exception("deciding again what guests were refused")

    # Life

    async def start(self) -> None:
        """NICs adopted and brought to what the files say. Raises InUseError."""
        await self.call(self.service.start)
        self._watch()
        if watchdog := watchdog_seconds():
            self.later(self._heartbeat(watchdog / 2))
        self.later(self._look_after())
        self.ready = True
        self.mind()

    async def reload(self, *, confirm_gone: bool = False) -> tuple[Problem, ...]:
        """All configuration is read again. A bad ``vfd.cfg`` changes nothing: what is wrong with it
        is told until a good one is read, and returned. What else fails is told, and raised."""
        problems: tuple[Problem, ...] = ()
        notify(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))
        try:
            async with self._reloading:
                await self._reload(confirm_gone)
        except ConfigError as error:
            problems = error.problems
            await self.call(self.service.refuse, error.problems)
        except Exception as error:
            log.exception("reload")
            self.journal.emit("failed", f"reload: {error}", level="error")
            raise
        finally:
            self._watch()
            notify(READY="1", STATUS=self.status())
        return problems

    async def _reload(self, confirm_gone: bool) -> None:
        parsed = self._read_main()
        main, old = parsed.config, self.service.main
        if (main.log_dir, main.log_keep, main.log_level) != (
            old.log_dir,
            old.log_keep,
            old.log_level,
        ):
            self._log_as(main)
        told = [str(warning) for warning in parsed.warnings]
        for field in ("socket", "pid_fname"):
            if (now := getattr(main, field)) != (then := getattr(self._started_with, field)):
                told.append(f"{field} = {now}: it stays {then} until the daemon is restarted")
        for warning in told:
            self.journal.emit("warning", warning, level="warning")
        self._unwatch(self._watched.keys() - {pf.id for pf in main.nics})
        files = await self._read_files(Path(main.config_dir))
        await self.call(self.service.reload, main, files, confirm_gone)
        self.cpu_alarm = main.cpu_alarm
        self.journal.emit("reloaded", "the configuration was read again")

    async def _read_files(self, folder: Path) -> Reading:
        """Reading takes as long as whoever may write files there likes: NICs don't wait for it."""
        return await self._loop.run_in_executor(self._reader, self.service.files.read_all, folder)

    async def edited(self) -> dict[str, str]:
        """Which files say something else than what is in force. Nothing where the file system takes
        its time: whoever asks for the table waits for NICs, and for nothing else."""
        vanished = self.service.vanished
        in_force = [one for _, one in self.service.in_force() if one.file not in vanished]
        if (before := self._looking) is not None and not before.done():
            # One that hangs keeps its thread: it must not have one for each who asks.
            await asyncio.wait([before], timeout=FILES_PATIENCE)
            if not before.done():
                return {}
        self._looking = looking = self._loop.run_in_executor(
            self._looker, self.service.files.edited, in_force
        )
        done, _ = await asyncio.wait([looking], timeout=FILES_PATIENCE)
        return looking.result() if done else {}

    async def stop(self) -> None:
        """Lets go of everything; the NICs go on enforcing."""
        self.ready = False
        notify(STOPPING="1")
        self._unwatch(list(self._watched))
        self.journal.close()
        for task in self._tasks:
            task.cancel()
        try:
            async with asyncio.timeout(0.5):
                await self.call(self.service.stop)
        except TimeoutError:
            log.warning("stopping while a NIC is busy: the next start completes what was begun")
        for executor in (self._writer, self._reader, self._looker):
            executor.shutdown(wait=False, cancel_futures=True)

    def status(self) -> str:
        nics = list(self.service.nics.values())
        vfs = sum(len(managed.vfs) for managed in nics)
        troubled = [managed.id for managed in nics if managed.condition != "ok"]
        text = f"{plural(len(nics), 'NIC')}, {plural(vfs, 'VF')} configured"
        text += f", in trouble: {', '.join(troubled)}" if troubled else ""
        bad = len(self.service.bad)
        return text + (f", {plural(bad, 'bad file')}" if bad else "")

    def later(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Does ``work`` beside all else; it ends with the daemon."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Events of NICs

    def _watch(self) -> None:
        """Listens to the NICs that are open now, and no longer to those that aren't."""
        nics = [(m.id, m.nic) for m in list(self.service.nics.values())]
        now = {pf_id: nic.fileno() for pf_id, nic in nics if nic is not None}
        self._unwatch([pf_id for pf_id, fd in self._watched.items() if now.get(pf_id) != fd])
        for pf_id, fd in now.items():
            if self._watched.get(pf_id) != fd:
                self._watched[pf_id] = fd
                self._loop.add_reader(fd, self._readable, pf_id, fd)

    def _unwatch(self, pf_ids: Collection[str]) -> None:
        """To be called before a NIC is closed: its descriptor's number is soon somebody else's."""
        for pf_id in pf_ids:
            self._loop.remove_reader(self._watched.pop(pf_id))

    def _readable(self, pf_id: str, fd: int) -> None:
        self._loop.remove_reader(fd)
        self.later(self._handle(pf_id, fd))

    async def _handle(self, pf_id: str, fd: int) -> None:
        managed = self.service.nics.get(pf_id)
        began = time.monotonic()
        if managed is not None:
            try:
                tired = self._is_tired_of_repairing(pf_id)
                repairs = await self.call(partial(handle, repair=not tired), self.service, managed)
                self._repairs[pf_id].extend([time.monotonic()] * min(repairs, REPAIRS))
            except Exception:
                log.exception("handling events of %s", pf_id)
                managed.doubt("its events could not be handled: the daemon's log says more")
                self.mind()
                await asyncio.sleep(RETRY)
        await asyncio.sleep(min(time.monotonic() - began, BREATH))
        if self._watched.get(pf_id) == fd:
            self._loop.add_reader(fd, self._readable, pf_id, fd)

    def _is_tired_of_repairing(self, pf_id: str) -> bool:
        repairs = self._repairs[pf_id]
        return len(repairs) == REPAIRS and time.monotonic() - repairs[0] < REPAIR_WINDOW

    def mind(self) -> None:
        """NICs in trouble are tried again, and files that are not in their place; nothing wakes up
        while there are none."""
        if self.ready and not self._mending and self.service.in_trouble():
            self._mending = True
            self.later(self._mend())

    async def _mend(self) -> None:
        wait = RETRY
        while self.service.in_trouble():
            await asyncio.sleep(wait)
            wait = min(2 * wait, RETRY_AT_LAST)
            try:
                if await self.call(self.service.reopen):
                    async with self._reloading:
                        files = await self._read_files(self.service.files.folder)
                        await self.call(self.service.load, files)
                await self.call(self.service.mend)
            except Exception:
                log.exception("trying NICs in trouble again")
            self._watch()
        self._mending = False

    # The daemon itself

    async def _heartbeat(self, interval: float) -> None:
        """Tells systemd that the NIC thread is alive: that it answers, or that what it does has not
        taken too long yet."""
        while True:
            await asyncio.sleep(interval)
            answer = asyncio.create_task(self.call(int))
            began = time.monotonic()
            while not (await asyncio.wait([answer], timeout=interval))[0]:
                busy = time.monotonic() - began
                log.warning("the NIC thread has been busy for %.3g s with %s", busy, self._doing)
                if busy < PATIENCE:
                    notify(WATCHDOG="1")
            notify(WATCHDOG="1")

    async def _look_after(self) -> None:
        """Every 30 s: counters are written where somebody wants them, and the daemon's own CPU use
        is minded. Nothing that fails here ends it."""
        cpu, wall = time.process_time(), time.monotonic()
        while True:
            await asyncio.sleep(LOOK)
            try:
                if self.service.main.stats_path:
                    await self.call(stats.write, self.service, Path(self.service.main.stats_path))
            except Exception:
                log.exception("writing the counters")
            notify(STATUS=self.status())
            now_cpu, now_wall = time.process_time(), time.monotonic()
            used, over = (now_cpu - cpu) / (now_wall - wall), now_wall - wall
            cpu, wall = now_cpu, now_wall
            if self.cpu_alarm and used > self.cpu_alarm:
                self.journal.emit(
                    "cpu-alarm",
                    f"{self.service.main.cpu_alarm_type} the daemon used {used:.0%} of a CPU over"
                    f" {over:.3g} s, more than cpu_alarm ({self.cpu_alarm:.0%})",
                    level="warning",
                    used=round(used, 3),
                )

    # Requests that run callbacks

    async def delete(self, name: str) -> Made | None:
        """``stop_cb`` has ended, or its time has, before the VF closes."""
        while True:
            try:
                _, one = await self.call(self.service.find, name)
            except NotFoundError:  # perhaps a bad file: the service knows
                return await self.call(self.service.delete, name)
            async with self._stopped([one]):
                try:
                    return await self.call(self.service.delete, name, one)
                except ConflictError:
                    if one.policy.stop_cb:
                        raise
                    # Changed at this moment, and nothing ran for what it was: it goes as it is now.

    async def set_vfs(self, pf_id: str, vfs: int, force: bool) -> tuple[Change, ...]:
        """The same for the VFs that go."""
        how = {"force": force}
        gone = await self.call(partial(pfs.going, self.service, pf_id, vfs, **how))
        async with self._stopped(gone):
            return await self.call(partial(pfs.set_vfs, self.service, pf_id, vfs, **how))

    async def remove(self, pf_id: str, force: bool) -> str:
        """The same for all VFs of a PF that is removed; its id."""
        how = {"force": force}
        gone = await self.call(partial(pfs.removal, self.service, pf_id, **how))
        async with self._stopped(gone):
            self._unwatch(self._watched.keys() & {self.service.nic(pf_id).id})
            try:
                return await self.call(partial(pfs.remove, self.service, pf_id, **how))
            finally:
                self._watch()

    @asynccontextmanager
    async def _stopped(self, closing: Collection[Configured]) -> AsyncIterator[None]:
        """Their ``stop_cb`` have run, and run for no other request. Raises ConflictError."""
        names = {one.policy.name for one in closing}
        if twice := self._stopping & names:
            raise ConflictError(f"{', '.join(twice)} is being closed: its stop_cb is running")
        self._stopping |= names
        try:
            await asyncio.gather(*map(self._stop, closing))
            yield
        finally:
            self._stopping -= names

    async def _stop(self, one: Configured) -> None:
        """``stop_cb`` undoes what ``start_cb`` did: it comes after it, or there is no start any
        more."""
        self._start_no_more(one.policy.name)
        if one.policy.stop_cb:
            if running := self._started.get(one.policy.name):
                await asyncio.wait([running])
            await self._run("stop_cb", one.policy.stop_cb, one)

    def _start_callbacks(self, opened: Iterable[Configured]) -> None:
        for one in opened:
            self._start_no_more(one.policy.name)  # it may have been closed and opened meanwhile
            if one.policy.start_cb:
                task = self.later(self._start(one.policy.start_cb, one))
                self._to_start[one.policy.name] = task

    def _start_no_more(self, name: str) -> None:
        if waiting := self._to_start.pop(name, None):
            waiting.cancel()

    async def _start(self, command: str, one: Configured) -> None:
        name = one.policy.name
        async with self._starting:
            task = self._to_start.pop(name)
            if not self._is_in_force(one):
                return
            self._started[name] = task
            try:
                await self._run("start_cb", command, one)
            finally:
                if self._started.get(name) is task:
                    del self._started[name]

    def _is_in_force(self, one: Configured) -> bool:
        """Its file may have been taken away by hand."""
        managed = self.service.home(one.policy.pciid)
        now = managed.vfs.get(one.policy.vfid) if managed else None
        return now is not None and now.policy.name == one.policy.name

    async def _run(self, which: Any, command: str, one: Configured) -> None:
        policy = one.policy
        vf = (policy.name, policy.pciid, policy.vfid)
        more: dict[str, Any] | None = self._ran.fields((which, policy.pciid, policy.vfid))
        outcome = await callbacks.run(which, command, one.owner, vf, quiet=more is None)
        if more is not None:
            self.journal.emit(
                "callback",
                outcome.text,
                level="info" if outcome.ok else "error",
                pf=policy.pciid,
                vfid=policy.vfid,
                name=policy.name,
                **more,
            )
