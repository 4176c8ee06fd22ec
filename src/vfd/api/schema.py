"""The messages of the API: what is asked and what is answered, over HTTP on the Unix socket.

Rates and speeds are bits per second, times are seconds since 1970 (UTC), counters are packets
or bytes on the wire. A counter that a NIC lacks is absent, never 0. The description for other
languages is ``openapi.json`` beside this file; a test holds the two equal.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_BODY = 1 << 20
"""Bytes of a request's body; a VF's configuration is a few hundred."""
MAX_NAME = 255

Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""A VF's name, a file's name under ``config_dir``, a PF's id: no control characters."""
Vfid = Annotated[int, Field(ge=0, le=255)]
LogLevel = Literal["debug", "info", "warning", "error", "critical"]


class Exit(IntEnum):
    """What ``iplex`` exits with; every error says which."""

    OK = 0
    USAGE = 2
    REFUSED = 3
    NOT_FOUND = 4
    NIC_FAILED = 5
    NO_DAEMON = 6


class Asked(BaseModel):
    """A request's body: unknown fields and wrong types are errors, not guesses."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Answer(BaseModel):
    """A response's body."""

    model_config = ConfigDict(extra="forbid", defer_build=True)


# Errors


class Problem(Answer):
    """One broken rule. Empty texts are unknown or don't apply."""

    file: str = ""
    field: str = ""
    value: Any = None
    rule: str
    other: str = ""
    """For a conflict: the other VF's name."""


class Error(Answer):
    """What went wrong, in the manner of RFC 9457 (application/problem+json)."""

    type: str
    """A short word for programs: ``not-found``, ``exists``, ``refused``, ``nic-failed`` …"""
    title: str
    status: int
    detail: str
    """What was asked, what was found, what to do."""
    problems: list[Problem] = []
    exit: int
    """The exit code of ``iplex``."""


# The daemon


class State(StrEnum):
    OK = "ok"
    CLOSED = "closed"
    """A VF without a configuration: nothing passes."""
    NOT_MANAGED = "not-managed"
    """A VF without a configuration on a PF with `"unconfigured": "leave"`: another manager's."""
    DRIFTED = "drifted"
    """What the NIC enforces isn't what was asked, and repair failed."""
    FAILED = "failed"
    """The NIC refused or can't be opened; it enforces what it last enforced."""
    LOST = "lost"
    """The PF is gone."""


class PfHealth(Answer):
    id: str
    state: State
    detail: str = ""
    not_managed: list[int] = []
    """The VFs that are left to another manager."""


class BadFile(Answer):
    """A file in ``config_dir`` that isn't in force as it stands, or the main file where it has
    settings of a PF that open VFs don't go with."""

    file: str
    problems: list[Problem]
    pf: str | None = None
    vfid: int | None = None
    """The VF that the file is for, where that can be told; it is left as it was."""


class Health(Answer):
    status: Literal["ok", "degraded"]
    version: str
    pid: int
    uptime: float
    """Seconds."""
    pfs: list[PfHealth]
    bad_files: list[BadFile]
    edited: list[str] = []
    """Files that say something else by now than what they were put in force with."""


class Ready(Answer):
    ready: bool


class Version(Answer):
    name: str = "vfd"
    version: str
    api: str = "v1"
    config_dir: str
    """Where the VFs' files are: a client that is given a path can tell whether it is one."""


class Reload(Asked):
    confirm_gone: bool = False
    """Files that are gone are deleted, and their VFs close, also where all of a folder are gone at
    once: without this they are taken for a mount that is missing."""


class Reloaded(Answer):
    vfs: int
    """How many VFs have a configuration in force."""
    pfs: list[PfHealth]
    bad_files: list[BadFile]
    """Those that are not in force as they stand."""


class Verbose(Asked):
    level: LogLevel


class CpuAlarm(Asked):
    percent: Annotated[int, Field(ge=0, le=1000)]
    """Percent of one CPU that the daemon may use before it warns; 0: never."""


# PFs


class PfAnswer(Answer):
    id: str
    backend: str
    address: str
    model: str
    driver: str
    firmware: str
    numa_node: int | None
    state: State
    detail: str = ""
    """Why the state is what it is, where it isn't ``ok``."""
    link_up: bool
    speed: int | None
    """Bits per second; null: unknown."""
    vfs: int
    configured: int
    """How many of the VFs have a configuration."""
    counters: dict[str, int]
    """Since the last ``clear``."""
    scale: float
    """What oversubscribed guarantees were multiplied by; 1 without oversubscription."""
    class_scale: dict[int, float]
    """By traffic class: what its oversubscribed shares were multiplied by."""
    mirrors: int
    policy: dict[str, Any]
    """The PF's object of the main configuration, defaults filled in."""
    warnings: list[str]


class PfList(Answer):
    pfs: list[PfAnswer]


class PfPatch(Asked):
    vfs: Annotated[int, Field(ge=0, le=256)]
    """How many VFs there are to be, 0 … 256."""
    force: bool = False
    """Take VFs away although guests hold them or files configure them."""


class CapabilityAnswer(Answer):
    attribute: str
    support: Literal["enforced", "limited", "absent"]
    by: str
    limit: str
    reason: str
    consequence: str


class CapsAnswer(Answer):
    pf: str
    backend: str
    vf: list[CapabilityAnswer]
    """By policy attribute of a VF, in the order of docs/configuration.md; then `closed`, and the
    rules that no attribute turns off: `mac_control`, `veiled_tags`."""
    pf_attributes: list[CapabilityAnswer]
    device: list[CapabilityAnswer] = []
    """What the device or its driver is set to beside any policy, by its own name: private flags,
    parameters of devlink. Only those that decide what VFs can do."""
    counters: list[str]
    absent_counters: list[str]
    counter_limits: dict[str, str]
    """By counter: in what it counts otherwise than docs/semantics.md says."""
    uncounted: str = ""
    """Why VFs have no counters at all, where they have none."""
    max_vfs: int
    max_vlans: int
    max_macs: int
    max_groups: int
    max_mirrors: int | None
    """Targets that one VF's frames can be copied to; null: no limit."""


# The operator's table


class MirrorRow(Answer):
    pf: str
    vfid: int
    name: str
    """The source's name, '' for none."""
    direction: Literal["in", "out", "all"]
    target: int
    target_name: str
    vlans: list[int | str]
    """Only frames in these VLANs, runs as `"10-20"`; empty: all."""


class Extended(Answer):
    """What ``show extended`` adds. Fields that don't apply to the row's kind are null."""

    guest: str | None = None
    held: bool | None = None
    vlans: list[int | str] | None = None
    """Runs of three and more as `"10-20"`."""
    tagging: Literal["trunk", "access", "service-access", "strip"] | None = None
    allow_untagged: bool | None = None
    pcp: int | None = None
    """Of tags that the NIC inserts."""
    macs: list[str] | None = None
    """Listed and granted, without the default one."""
    groups: list[str] | None = None
    link_status: Literal["on", "off", "auto"] | None = None
    mtu: int | None = None
    rate: int | None = None
    """Bits per second; 0: no limit. So are the next two."""
    min_rate: int | None = None
    max_rx_rate: int | None = None
    storm_limit: int | None = None
    trust: bool | None = None
    promisc: bool | None = None
    allmulti: bool | None = None
    wishes: list[WishAnswer] | None = None
    mirrors: list[MirrorRow] | None = None
    mirror_target_of: list[int] | None = None
    backend: str | None = None
    model: str | None = None
    driver: str | None = None
    firmware: str | None = None
    numa_node: int | None = None
    iommu_group: int | None = None
    msix: int | None = None
    """Interrupt vectors of a VF; of a PF those that can be shared out among its VFs."""
    vfs: int | None = None
    scale: float | None = None
    class_scale: dict[int, float] | None = None


class Row(Answer):
    """One line of ``iplex show``: a PF, or a VF below its PF."""

    kind: Literal["pf", "vf"]
    pf: str
    vfid: int | None
    """null on a PF's row."""
    name: str
    """The VF's name, '' for a VF without a configuration; the id on a PF's row."""
    address: str
    """PCI address or netdev name."""
    state: State
    link: Literal["up", "down"]
    speed: int | None
    mac: str | None
    counters: dict[str, int]
    """Since the last ``clear``; names in the order of docs/operating.md."""
    warnings: list[str]
    scale: float = 1.0
    """What the VF's guarantee was multiplied with, as all add up to more than the link; on a PF's
    row the factor for all of its VFs."""
    class_scale: dict[int, float] = {}
    """The same for shares, by traffic class: on a VF's row of those that it states."""
    extended: Extended | None = None


class Show(Answer):
    rows: list[Row]


class MirrorList(Answer):
    mirrors: list[MirrorRow]


# VFs


class GrantsAnswer(Answer):
    """What the guest asked for and was granted."""

    default_mac: str | None = None
    macs: list[str] = []
    groups: list[str] = []
    mtu: int | None = None
    promisc: bool = False
    allmulti: bool = False


class WishAnswer(Answer):
    """What the guest asked for and was refused; decided again whenever that may be otherwise."""

    request: str
    """``default-mac``, ``add-mac``, ``join-group``, ``vlan-filter``, ``mtu``, ``promiscuous`` or
    ``all-multicast``."""
    value: str | int | None = None
    """The MAC, group, VLAN or MTU."""
    reason: str


class Difference(Answer):
    """An attribute whose value in force isn't the one asked for."""

    field: str
    asked: Any = None
    in_force: Any = None
    why: str


class VfAnswer(Answer):
    name: str
    file: str
    """Under ``config_dir``."""
    owner: int
    """The uid that owns the file; callbacks run as this user."""
    pf: str
    vfid: int
    address: str
    state: State
    link_up: bool
    mac: str | None
    mtu: int | None
    guest: str
    held: bool
    asked: dict[str, Any]
    """The configuration as the file states it."""
    in_force: dict[str, Any] | None
    """Every attribute as read back from the NIC; null: the VF is closed."""
    differences: list[Difference]
    grants: GrantsAnswer
    wishes: list[WishAnswer] = []
    warnings: list[str]


class VfList(Answer):
    vfs: list[VfAnswer]
    bad_files: list[BadFile]


class VfBody(Asked):
    """Which configuration: a file in ``config_dir``, or the content itself. One of the two."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "oneOf": [
                {
                    "required": ["file"],
                    "properties": {"file": {"type": "string"}, "config": {"type": "null"}},
                },
                {
                    "required": ["config"],
                    "properties": {"config": {"type": "object"}, "file": {"type": "null"}},
                },
            ]
        },
    )

    file: Name | None = None
    """Under ``config_dir``, with or without ``.json``."""
    name: Name | None = None
    """The name of ``config``, unless that states one."""
    config: Annotated[dict[str, Any], Field(max_length=128)] | None = None
    """A VF's configuration object, as in docs/configuration.md."""
    move: bool = False
    """An update (or its plan) may take the policy to another VF of the PF, and so to another
    guest."""


class FieldChange(Answer):
    field: str
    before: Any = None
    after: Any = None


class ChangeAnswer(Answer):
    """One change to a NIC, and to a VF's callbacks. ``vfid`` null: to the PF itself."""

    pf: str
    vfid: int | None
    kind: Literal["open", "close", "update", "pf"]
    fields: list[FieldChange]


class Applied(Answer):
    """A change was made and read back."""

    name: str
    pf: str
    vfid: int
    changes: list[ChangeAnswer]
    warnings: list[str]


class PlanAnswer(Answer):
    """What adding or updating this configuration would do; nothing was done."""

    action: Literal["add", "update", "none"]
    changes: list[ChangeAnswer]
    problems: list[Problem]
    warnings: list[str]


class MirrorBody(Asked):
    direction: Literal["in", "out", "all", "off"]
    target: Vfid | None = None
    """The VF that gets the copies. ``off`` needs none and then ends all mirrors of the VF."""


class PfApplied(Answer):
    pf: str
    changes: list[ChangeAnswer]
    warnings: list[str]


# Operations


class ClearBody(Asked):
    pf: Name
    vf: Vfid | None = None
    """null: the PF and all its VFs."""


class Done(Answer):
    detail: str


class EventAnswer(Answer):
    """Something that happened. One JSON object per line on the event stream."""

    seq: int
    """Grows by one, and over restarts of the daemon."""
    time: float
    kind: str
    """``granted``, ``refused``, ``link``, ``drift``, ``added`` …: docs/operating.md lists them."""
    level: Literal["info", "warning", "error"]
    pf: str | None = None
    vfid: int | None = None
    name: str | None = None
    text: str
    data: dict[str, Any] = {}


class Dump(Answer):
    """Everything that the daemon knows, for a bug report."""

    version: str
    config_file: str
    config: dict[str, Any]
    pfs: list[dict[str, Any]]
    events: list[EventAnswer]


class EventList(Answer):
    events: list[EventAnswer]
