"""A thin, typed binding to libbpf.so.1: objects, maps, programs, ring buffers.

Covers what the soft NIC needs and Debian 12's libbpf 1.1 has. Nothing is pinned: programs live
while a filter holds them, maps while a program holds them, and both are found again by id.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Self

from vfd.nic.protocol import NicError

_LOG_SIZE = 1 << 20
_LOG_TAIL = 25
"""Lines of the verifier's log that an error quotes: its end says what was refused."""

_PERCPU_TYPES = {5, 6, 10}
"""BPF_MAP_TYPE_PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH (include/uapi/linux/bpf.h)."""

_SCHED_CLS = 3


class BpfError(NicError):
    """The kernel or libbpf refused. ``errno`` says why, ``log`` has the verifier's words."""

    def __init__(self, message: str, number: int = 0, log: str = "") -> None:
        super().__init__(message)
        self.errno = number
        self.log = log


class _OpenOpts(ctypes.Structure):
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("object_name", ctypes.c_char_p),
        ("relaxed_maps", ctypes.c_bool),
        ("pin_root_path", ctypes.c_char_p),
        ("_gap", ctypes.c_uint32),
        ("kconfig", ctypes.c_char_p),
        ("btf_custom_path", ctypes.c_char_p),
        ("kernel_log_buf", ctypes.c_void_p),
        ("kernel_log_size", ctypes.c_size_t),
        ("kernel_log_level", ctypes.c_uint32),
    )


class _BatchOpts(ctypes.Structure):
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("elem_flags", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
    )


class _TestRunOpts(ctypes.Structure):
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_void_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_void_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    )


class _MapInfo(ctypes.Structure):
    """``struct bpf_map_info``, as far as it is used."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("name", ctypes.c_char * 16),
    )


class _ProgInfo(ctypes.Structure):
    """``struct bpf_prog_info``, as far as it is used."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("tag", ctypes.c_uint8 * 8),
        ("jited_prog_len", ctypes.c_uint32),
        ("xlated_prog_len", ctypes.c_uint32),
        ("jited_prog_insns", ctypes.c_uint64),
        ("xlated_prog_insns", ctypes.c_uint64),
        ("load_time", ctypes.c_uint64),
        ("created_by_uid", ctypes.c_uint32),
        ("nr_map_ids", ctypes.c_uint32),
        ("map_ids", ctypes.c_uint64),
        ("name", ctypes.c_char * 16),
    )


_Sample = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_PrintFn = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)

_POINTERS = (
    "bpf_object__open_mem",
    "bpf_object__next_map",
    "bpf_object__next_program",
    "bpf_map__initial_value",
    "ring_buffer__new",
)
_NAMES = ("bpf_map__name", "bpf_program__name")


@cache
def library() -> ctypes.CDLL:
    """The library, loaded at first use."""
    try:
        lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise BpfError(
            f"the soft NIC needs libbpf 1.x, and it can't be loaded ({error}): apt install libbpf1"
        ) from None
    for name in _POINTERS:
        getattr(lib, name).restype = ctypes.c_void_p
    for name in _NAMES:
        getattr(lib, name).restype = ctypes.c_char_p
    lib.libbpf_set_print(None)  # what it would print, the errors here say
    return lib


def _ptr(value: int | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(value)


def checked(result: int, what: str) -> int:
    """``result`` of a libbpf call, which is a negative errno on failure."""
    if result >= 0:
        return result
    number = -result
    raise BpfError(f"{what}: {os.strerror(number)}", number)


def _buffer(data: bytes) -> Any:
    return (ctypes.c_char * max(len(data), 1)).from_buffer_copy(data or b"\0")


@cache
def possible_cpus() -> int:
    """How many values a per-CPU map has for one key."""
    return checked(library().libbpf_num_possible_cpus(), "counting the possible CPUs")


def _info(fd: int, info: Any, what: str) -> None:
    size = ctypes.c_uint32(ctypes.sizeof(info))
    checked(library().bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size)), what)


# -- Maps -------------------------------------------------------------------------------------


@dataclass(slots=True)
class BpfMap:
    """An open map. Keys and values are bytes of exactly its sizes."""

    fd: int
    id: int
    name: str
    """At most 15 characters: the kernel keeps no more."""
    type: int
    key_size: int
    value_size: int
    max_entries: int

    @classmethod
    def of_fd(cls, fd: int) -> Self:
        """Takes over ``fd``."""
        info = _MapInfo()
        _info(fd, info, f"asking about the map of descriptor {fd}")
        return cls(
            fd,
            info.id,
            info.name.decode(),
            info.type,
            info.key_size,
            info.value_size,
            info.max_entries,
        )

    @classmethod
    def of_id(cls, map_id: int) -> Self:
        return cls.of_fd(checked(library().bpf_map_get_fd_by_id(map_id), f"opening map {map_id}"))

    @property
    def per_cpu(self) -> bool:
        return self.type in _PERCPU_TYPES

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def get(self, key: bytes) -> bytes | None:
        """The value at ``key``; None: there is none. Per-CPU maps: every CPU's, in order."""
        value = ctypes.create_string_buffer(self._width)
        result = library().bpf_map_lookup_elem(self.fd, key, value)
        if result == -errno.ENOENT:
            return None
        checked(result, f"reading map {self.name}")
        return value.raw

    def put(self, key: bytes, value: bytes) -> None:
        """Adds or replaces. Raises BpfError, with errno E2BIG when the map is full."""
        self._fits(key, value)
        checked(library().bpf_map_update_elem(self.fd, key, value, 0), f"writing map {self.name}")

    def delete(self, key: bytes) -> None:
        """Removes; a key that is not there is no error."""
        result = library().bpf_map_delete_elem(self.fd, key)
        if result != -errno.ENOENT:
            checked(result, f"deleting from map {self.name}")

    def put_all(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Adds or replaces many, in their order, in one system call."""
        pairs = list(items)
        if not pairs:
            return
        for key, value in pairs:
            self._fits(key, value)
        count = ctypes.c_uint32(len(pairs))
        opts = _BatchOpts(sz=ctypes.sizeof(_BatchOpts))
        result = library().bpf_map_update_batch(
            self.fd,
            b"".join(key for key, _ in pairs),
            b"".join(value for _, value in pairs),
            ctypes.byref(count),
            ctypes.byref(opts),
        )
        checked(result, f"writing {len(pairs)} entries to map {self.name} (done: {count.value})")

    def delete_all(self, keys: Iterable[bytes]) -> None:
        """Removes many; keys that are not there are no error."""
        for key in keys:
            self.delete(key)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All entries. Per-CPU maps: a value is all CPUs' values, one after another.

        Entries that are added or removed meanwhile may or may not be there.
        """
        size, width = self.key_size, self._width
        for count, keys, values in self._batches():
            for i in range(count):
                yield keys[i * size : (i + 1) * size], values[i * width : (i + 1) * width]

    def raw(self) -> bytes:
        """All values of an array, one after another in the order of their indices."""
        width = self._width
        return b"".join(values[: count * width] for count, _, values in self._batches())

    def _batches(self) -> Iterator[tuple[int, bytes, bytes]]:
        """(entries, keys, values), as many at a time as fit in some MiB."""
        step = max(1, min(self.max_entries, (1 << 22) // self._width))
        at = ctypes.create_string_buffer(max(self.key_size, 8))
        opts = _BatchOpts(sz=ctypes.sizeof(_BatchOpts))
        start = None
        while True:
            keys = ctypes.create_string_buffer(self.key_size * step)
            values = ctypes.create_string_buffer(self._width * step)
            count = ctypes.c_uint32(step)
            result = library().bpf_map_lookup_batch(
                self.fd, start, at, keys, values, ctypes.byref(count), ctypes.byref(opts)
            )
            if result == -errno.ENOSPC:  # one bucket of a hash holds more than `step` entries
                step *= 2
                continue
            if result != -errno.ENOENT:
                checked(result, f"reading map {self.name}")
            yield count.value, keys.raw, values.raw
            if result == -errno.ENOENT:
                return
            start = at

    @property
    def _width(self) -> int:
        """Bytes of one entry's value in a buffer; per-CPU maps have one value a CPU."""
        return self._stride * (possible_cpus() if self.per_cpu else 1)

    @property
    def _stride(self) -> int:
        """Bytes of one value in a buffer: per-CPU values are rounded up to 8."""
        return (self.value_size + 7) // 8 * 8 if self.per_cpu else self.value_size

    def _fits(self, key: bytes, value: bytes) -> None:
        size = self._stride * possible_cpus() if self.per_cpu else self.value_size
        if len(key) != self.key_size or len(value) != size:
            raise BpfError(
                f"map {self.name} has keys of {self.key_size} and values of {size}"
                f" bytes, not {len(key)} and {len(value)}"
            )


# -- Programs ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Run:
    """What one BPF_PROG_TEST_RUN came to."""

    retval: int
    """What the program returned: a TC_ACT_*."""
    duration_ns: int
    """The program's own time, on average over the repetitions."""
    data: bytes
    """The frame afterwards, without a tag in the metadata."""
    context: bytes
    """The ``struct __sk_buff`` afterwards; empty where none was given."""


@dataclass(slots=True)
class BpfProgram:
    """A loaded program."""

    fd: int
    id: int
    name: str
    map_ids: tuple[int, ...]
    """Every map that lives as long as this program."""

    @classmethod
    def of_fd(cls, fd: int) -> Self:
        """Takes over ``fd``."""
        ids = (ctypes.c_uint32 * 64)()
        info = _ProgInfo(nr_map_ids=64, map_ids=ctypes.addressof(ids))
        _info(fd, info, f"asking about the program of descriptor {fd}")
        return cls(fd, info.id, info.name.decode(), tuple(ids[: min(64, info.nr_map_ids)]))

    @classmethod
    def of_id(cls, prog_id: int) -> Self:
        """The program that e.g. a cls_bpf filter names (TCA_BPF_ID)."""
        return cls.of_fd(
            checked(library().bpf_prog_get_fd_by_id(prog_id), f"opening program {prog_id}")
        )

    def maps(self) -> dict[str, BpfMap]:
        """All maps of the program, opened, by name."""
        found: dict[str, BpfMap] = {}
        with contextlib.ExitStack() as refused:
            for map_id in self.map_ids:
                bpf_map = BpfMap.of_id(map_id)
                refused.callback(bpf_map.close)
                found[bpf_map.name] = bpf_map
            refused.pop_all()
        return found

    def bind(self, bpf_map: BpfMap) -> None:
        """Lets a map that the program doesn't use live as long as the program."""
        checked(
            library().bpf_prog_bind_map(self.fd, bpf_map.fd, None),
            f"binding map {bpf_map.name} to program {self.name}",
        )
        self.map_ids = (*self.map_ids, bpf_map.id)

    def test_run(self, frame: bytes, context: bytes = b"", *, repeat: int = 1) -> Run:
        """Runs the program on ``frame`` (at least 14 bytes). ``context``: a ``struct __sk_buff``
        whose fields that the kernel lets be set are set."""
        out = ctypes.create_string_buffer(len(frame) + 256)
        left = ctypes.create_string_buffer(len(context))
        opts = _TestRunOpts(
            sz=ctypes.sizeof(_TestRunOpts),
            data_in=ctypes.cast(ctypes.c_char_p(frame), ctypes.c_void_p),
            data_size_in=len(frame),
            data_out=ctypes.cast(out, ctypes.c_void_p),
            data_size_out=len(out),
            repeat=repeat,
        )
        if context:
            opts.ctx_in = ctypes.cast(ctypes.c_char_p(context), ctypes.c_void_p)
            opts.ctx_out = ctypes.cast(left, ctypes.c_void_p)
            opts.ctx_size_in = opts.ctx_size_out = len(context)
        result = library().bpf_prog_test_run_opts(self.fd, ctypes.byref(opts))
        checked(result, f"running program {self.name} on a frame of {len(frame)} bytes")
        return Run(opts.retval, opts.duration, out.raw[: opts.data_size_out], left.raw)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


# -- Objects ----------------------------------------------------------------------------------


@dataclass(slots=True)
class Loaded:
    """What a load made: programs and maps, by name. Descriptors are the caller's to close."""

    programs: dict[str, BpfProgram] = field(default_factory=dict)
    maps: dict[str, BpfMap] = field(default_factory=dict)

    def close(self) -> None:
        for program in self.programs.values():
            program.close()
        for bpf_map in self.maps.values():
            bpf_map.close()


def load(
    elf: bytes,
    *,
    constants: bytes = b"",
    reuse: Mapping[str, BpfMap] | None = None,
) -> Loaded:
    """Loads an object file's tc programs and maps into the kernel.

    ``constants``: what ``.rodata`` holds instead of its initial value. ``reuse``: maps to use in
    place of fresh ones of the same name; they stay the caller's.

    Raises BpfError; when the verifier refuses, with the end of its log in the message.
    """
    lib = library()
    log = ctypes.create_string_buffer(_LOG_SIZE)
    opts = _OpenOpts(
        sz=ctypes.sizeof(_OpenOpts),
        object_name=b"veb",
        kernel_log_buf=ctypes.addressof(log),
        kernel_log_size=_LOG_SIZE,
    )
    ctypes.set_errno(0)
    obj = lib.bpf_object__open_mem(elf, ctypes.c_size_t(len(elf)), ctypes.byref(opts))
    if not obj:
        number = ctypes.get_errno()
        raise BpfError(f"this is not a BPF object: {os.strerror(number)}", number)
    try:
        maps = list(_each(lib.bpf_object__next_map, obj))
        for handle in maps:
            _prepare(lib, handle, constants, reuse or {})
        programs = list(_each(lib.bpf_object__next_program, obj))
        for handle in programs:
            lib.bpf_program__set_type(_ptr(handle), _SCHED_CLS)
        result = lib.bpf_object__load(_ptr(obj))
        if result < 0:
            raise _refusal(-result, log.value.decode(errors="replace"))
        loaded = Loaded()
        try:
            _collect(lib, maps, programs, loaded)
        except BpfError:
            loaded.close()
            raise
        return loaded
    finally:
        lib.bpf_object__close(_ptr(obj))


def _each(step: Callable[..., int | None], obj: int) -> Iterator[int]:
    handle = step(_ptr(obj), None)
    while handle:
        yield handle
        handle = step(_ptr(obj), _ptr(handle))


def _prepare(lib: ctypes.CDLL, handle: int, constants: bytes, reuse: Mapping[str, BpfMap]) -> None:
    name = lib.bpf_map__name(_ptr(handle)).decode()
    if name in reuse:
        checked(lib.bpf_map__reuse_fd(_ptr(handle), reuse[name].fd), f"taking over the map {name}")
    elif constants and name.endswith(".rodata"):
        size = ctypes.c_size_t()
        start = lib.bpf_map__initial_value(_ptr(handle), ctypes.byref(size))
        if not start or size.value < len(constants):
            raise BpfError(f"{name} has no room for {len(constants)} bytes of constants")
        ctypes.memmove(start, constants, len(constants))


def _collect(lib: ctypes.CDLL, maps: list[int], programs: list[int], loaded: Loaded) -> None:
    for handle in maps:
        name = lib.bpf_map__name(_ptr(handle)).decode()
        if not name.endswith(".rodata"):
            bpf_map = BpfMap.of_fd(os.dup(lib.bpf_map__fd(_ptr(handle))))
            loaded.maps[name] = bpf_map
    for handle in programs:
        name = lib.bpf_program__name(_ptr(handle)).decode()
        loaded.programs[name] = BpfProgram.of_fd(os.dup(lib.bpf_program__fd(_ptr(handle))))


def _refusal(number: int, log: str) -> BpfError:
    lines = [line for line in log.splitlines() if line.strip()]
    tail = "\n".join(lines[-_LOG_TAIL:])
    message = f"the kernel refused the soft NIC's BPF program: {os.strerror(number)}"
    if number == errno.EPERM and not lines:
        message += ". Loading BPF needs CAP_BPF and CAP_NET_ADMIN"
    if lines:
        message += f". The end of the verifier's log:\n{tail}"
    return BpfError(message, number, log)


# -- Ring buffer ------------------------------------------------------------------------------


class RingBuffer:
    """The reading end of a BPF_MAP_TYPE_RINGBUF."""

    def __init__(self, bpf_map: BpfMap) -> None:
        self._samples: list[bytes] = []
        self._callback = _Sample(self._take)  # kept: libbpf has only its address
        ctypes.set_errno(0)
        self._ring = library().ring_buffer__new(bpf_map.fd, self._callback, None, None)
        if not self._ring:
            number = ctypes.get_errno()
            raise BpfError(f"reading map {bpf_map.name}: {os.strerror(number)}", number)

    def _take(self, _context: Any, data: int, size: int) -> int:
        self._samples.append(ctypes.string_at(data, size))
        return 0

    def fileno(self) -> int:
        """An epoll descriptor, readable while there is something to read."""
        return int(library().ring_buffer__epoll_fd(_ptr(self._ring)))

    def read(self) -> list[bytes]:
        """All that has come since; never blocks."""
        checked(library().ring_buffer__consume(_ptr(self._ring)), "reading the ring buffer")
        samples, self._samples = self._samples, []
        return samples

    def close(self) -> None:
        if self._ring:
            library().ring_buffer__free(_ptr(self._ring))
            self._ring = None
