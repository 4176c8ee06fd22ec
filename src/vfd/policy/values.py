"""What a VF and a PF may do: the attributes of SEMANTICS, as immutable, validated values.

Field names, defaults and the forms that a file may write are those of the configuration files
(docs/configuration.md, generated from here). A value of these types has passed every check on
its single fields; the rules between fields, between VFs, and between a VF and its PF are in
``rules``.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    Strict,
    WithJsonSchema,
    field_validator,
)

from vfd.policy.addresses import (
    MAX_VID,
    Device,
    DriverName,
    MacPrefix,
    Netdev,
    UnicastMac,
    Vlans,
    in_prefix,
)
from vfd.policy.names import Command, Name
from vfd.policy.rate import NONE, PercentField, RateField, SpeedField

C_TAG = 0x8100
"""TPID of a customer tag, IEEE 802.1Q-2018 table 9-1."""
S_TAG = 0x88A8
"""TPID of a service tag, IEEE 802.1Q-2018 table 9-1."""

DEFAULT_MTU = 1500
MAX_VFS = 256
MAX_VLANS = MAX_VID
"""Most VLANs in one VF's list where the NIC has no limit of its own: all that there are."""
MAX_MACS = 64
"""Most further MACs of one VF where the NIC has no limit of its own."""
MAX_RESERVED = 256
"""Most entries of a PF's ``reserved_macs``: each request of a guest is held against all."""
MAX_GROUPS = 64
"""Most multicast groups one guest may join where the NIC has no limit of its own."""

_LONGEST_NUMBER = 64
"""Characters of a number in quotes; Python refuses to read some thousands, in its own words."""
MAX_MIRRORS = 256
"""Most mirrors of one VF: one for each VF that there may be."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one NIC has room for. The defaults hold where the NIC has no limit of its own."""

    max_vfs: int = MAX_VFS
    max_vlans: int = MAX_VLANS
    """VLANs in one VF's list."""
    max_macs: int = MAX_MACS
    """Further MACs of one VF: listed and granted."""
    max_groups: int = MAX_GROUPS
    """Multicast groups of one guest."""
    max_mirrors: int | None = None
    """Mirrors of one VF, put together as ``mirrors.merged`` does; None: as many as it likes."""


def number_in_quotes(value: Any) -> Any:
    """Files written by hand have ``"9000"`` where 9000 was meant; anything else stays as it is."""
    if isinstance(value, str) and len(value) <= _LONGEST_NUMBER:
        digits = value.strip()
        if digits.isascii() and digits.isdigit():
            return int(digits)
    return value


def parse_tpid(value: Any) -> int:
    """A TPID as a number or as text: ``33024``, ``"0x8100"``, ``"0x88a8"``.

    Raises ValueError for any other.
    """
    tpid = value
    if isinstance(value, str) and len(value) <= _LONGEST_NUMBER:
        with suppress(ValueError):
            tpid = int(value.strip(), 0)
    if not isinstance(tpid, int) or tpid not in (C_TAG, S_TAG):
        raise ValueError(f'must be "{C_TAG:#x}" or "{S_TAG:#x}"')
    return tpid


def mirror_list(value: Any) -> Any:
    """The mirrors of a file: one object, a list of them, or none; VFd's ``both`` means ``all``,
    and a mirror whose direction is ``off`` is none."""
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        return value
    if len(value) > MAX_MIRRORS:
        raise ValueError(f"{len(value)} mirrors: a VF has at most {MAX_MIRRORS}")
    return [
        {**entry, "direction": "all"}
        if isinstance(entry, dict) and entry.get("direction") == "both"
        else entry
        for entry in value
        if not (isinstance(entry, dict) and entry.get("direction") == "off")
    ]


def group_list(value: Any) -> Any:
    """Bandwidth groups as a file writes them, ``{"bwg0": [0], "bwg1": [1, 2]}``, as a list."""
    if isinstance(value, dict):
        return [{"name": name, "classes": classes} for name, classes in value.items()]
    if isinstance(value, list):
        raise ValueError('groups are an object, like {"bwg0": [0], "bwg1": [1, 2]}')
    return value


def _by_name(groups: Any) -> dict[str, list[int]]:
    return {group.name: list(group.classes) for group in groups}


Flag = Annotated[bool, Strict()]
"""true or false, and nothing that looks like it: a policy is no place to guess."""
Count = Annotated[int, Strict(), Field(ge=0, le=2**32 - 1)]
Priority = Annotated[int, Strict(), Field(ge=0, le=7)]
"""A traffic class, 0 … 7; the larger goes first where priority is strict."""
Percent = Annotated[int, Strict(), Field(ge=0, le=100)]
Mtu = Annotated[
    int,
    BeforeValidator(number_in_quotes),
    Strict(),
    Field(ge=68, le=9710),
    WithJsonSchema(
        {
            "title": "68 … 9710",
            "anyOf": [
                {"type": "integer", "minimum": 68, "maximum": 9710},
                {
                    "type": "string",
                    "pattern": r"^\s*0*(6[89]|[7-9][0-9]|[1-9][0-9]{2}|"
                    r"[1-8][0-9]{3}|9[0-6][0-9]{2}|970[0-9]|9710)\s*$",
                },
            ],
        }
    ),
]
"""Bytes after the Ethernet header and the frame's own outer tag. 68 is IPv4's least (RFC 791)."""
Tpid = Annotated[
    Literal[0x8100, 0x88A8],
    BeforeValidator(parse_tpid),
    WithJsonSchema(
        {
            "title": "0x8100 or 0x88a8",
            "anyOf": [
                {"enum": [0x8100, 0x88A8]},
                {"type": "string", "pattern": r"^\s*(0[xX](8100|88[aA]8)|33024|34984)\s*$"},
            ],
        }
    ),
]


class Value(BaseModel):
    """Immutable, compared by content, strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class LinkStatus(StrEnum):
    ON = "on"
    OFF = "off"
    AUTO = "auto"


class Direction(StrEnum):
    """The guest's directions: ``in`` is what it is given (Rx), ``out`` what it sends (Tx)."""

    IN = "in"
    OUT = "out"
    ALL = "all"


class GuestMacs(StrEnum):
    """Which further MACs a guest may ask for."""

    ANY = "any"
    LISTED = "listed"
    NONE = "none"


def _guest_macs(stated: dict[str, Any]) -> GuestMacs:
    """Who says which MACs a VF has means these and no others."""
    return GuestMacs.LISTED if stated.get("vm_mac") or stated.get("macs") else GuestMacs.ANY


class Mirror(Value):
    """Copies of a VF's frames to VF ``target`` of the same PF."""

    target: Count
    """The vfid of the VF that gets the copies."""
    direction: Direction = Direction.ALL
    """`in`: what the guest is given (Rx); `out`: what it sends (Tx); `all`: both."""
    vlans: Vlans = ()
    """Only frames in these VLANs; empty: all frames."""


Mirrors = Annotated[tuple[Mirror, ...], BeforeValidator(mirror_list)]


class QueueShare(Value):
    """A VF's share in one traffic class, percent of that class."""

    priority: Priority
    """The traffic class."""
    share: PercentField
    """Percent of the class, as a number or as `"10%"`."""


class VfRules(Value):
    """What a NIC enforces on one VF: everything in a VF's configuration but its identity.

    This is also what ``Nic.observe`` returns for a VF, read back from the NIC.
    """

    vlans: Vlans = ()
    """The VLANs the VF may be in, 1 … 4094, also as ranges: `"10-20"`. In the access modes the
    first is the one that the NIC inserts."""
    strip_stag: Flag = False
    """Service-tag access: with one VLAN the NIC pushes the PF's `tpid` and this VLAN outside what
    the guest sends and takes it off what it is given."""
    strip_ctag: Flag = False
    """Customer-tag access: with one VLAN the NIC tags what the guest sends and untags what it is
    given."""
    allow_untagged: Flag = False
    """Untagged frames pass, both ways."""
    pcp: Priority = 0
    """The PCP of a tag that the NIC inserts where the guest gave none: in the access modes, 0 … 7.
    A guest's priority tag has its own."""
    vm_mac: UnicastMac | None = None
    """The VF's default MAC, forced on the guest; none: the first of `macs`, or without those the
    NIC's own, which the guest may ask to change."""
    macs: tuple[UnicastMac, ...] = ()
    """Unicast MACs that the VF may own. Without `vm_mac` the first is the VF's default MAC, forced;
    the others are further ones."""
    mac_anti_spoof: Flag = True
    """What the guest sends must come from one of the VF's MACs."""
    vlan_anti_spoof: Flag = True
    """What the guest sends must be in one of the VF's VLANs."""
    allow_bcast: Flag = True
    """The guest is given broadcast."""
    allow_mcast: Flag = True
    """The guest is given multicast of groups that it did not join."""
    allow_un_ucast: Flag = False
    """The guest is given unicast to MACs that no port owns."""
    link_status: LinkStatus = LinkStatus.AUTO
    """`on`: up whatever the wire does; `off`: down, nothing passes; `auto`: follows the wire."""
    rate: RateField = NONE
    """The most that the guest may send: a share of the link (0 … 1, `"25%"`) or a speed
    (`"2Gbps"`); 0: no limit."""
    min_rate: RateField = NONE
    """What the guest may send however busy the link is; 0: no guarantee."""
    max_rx_rate: RateField = NONE
    """The most that the guest is given; 0: no limit."""
    queues: tuple[QueueShare, ...] = ()
    """The VF's share in each traffic class; none: equal shares."""
    mirror: Mirrors = ()
    """Copies of the VF's frames to other VFs of the PF: one object or a list of them."""
    trust: Flag = False
    """The guest may ask for promiscuous and all-multicast mode, within `allow_un_ucast` and
    `allow_mcast`."""
    mtu: Mtu | None = None
    """The VF's MTU in bytes until its guest asks for another; none: the smaller of the main file's
    `default_mtu` and the PF's `mtu`."""
    storm_limit: Count = 0
    """Broadcast, unknown unicast and multicast frames per second that the guest may send; 0: no
    limit."""
    guest_macs: GuestMacs = Field(default_factory=_guest_macs)
    """Which further MACs the guest may ask for: `any`, only those in `macs` (`listed`), `none`.
    Without it `listed` where `vm_mac` or `macs` is stated, else `any`, which is warned of."""
    guest_vlans: Flag = True
    """The guest may ask for a filter within `vlans`."""
    guest_groups: Flag = True
    """The guest may join multicast groups, which then reach it even with `allow_mcast` false."""

    @property
    def forced_mac(self) -> str | None:
        """The default MAC that is forced on the guest: ``vm_mac``, else the first of ``macs``."""
        return self.vm_mac or (self.macs[0] if self.macs else None)

    @property
    def further_macs(self) -> tuple[UnicastMac, ...]:
        """``macs`` less the one that is the default in place of ``vm_mac``."""
        return self.macs if self.vm_mac else self.macs[1:]

    @property
    def access_vid(self) -> int | None:
        """The VID that the NIC inserts, in access and service access; else None."""
        if (self.strip_ctag or self.strip_stag) and len(self.vlans) == 1:
            return self.vlans[0]
        return None

    def tpid(self, pf_tpid: int) -> int:
        """The VF's kind of tag: the PF's service TPID under ``strip_stag``, else a C-tag."""
        return pf_tpid if self.strip_stag else C_TAG


class VfPolicy(VfRules):
    """One VF's whole configuration, as its file states it."""

    name: Name
    """Unique on the host; what commands, metrics and events call the VF. It may contain `/`, but no
    part of it begins with a dot. Without it, the file's name without `.json`."""
    pciid: Device
    """The PF: its PCI address (`0000:07:00.1`) or its netdev (`ens1f0`), as `pciids` has it."""
    vfid: Annotated[int, Strict(), Field(ge=0, lt=MAX_VFS)]
    """The VF on its PF, 0 … number of VFs - 1."""
    start_cb: Command | None = None
    """A command that runs as the file's owner after the start, never through a shell."""
    stop_cb: Command | None = None
    """A command that runs as the file's owner before the stop, never through a shell."""

    @property
    def rules(self) -> VfRules:
        """The part that a NIC enforces, without the VF's identity."""
        return VfRules.model_construct(
            **{field: getattr(self, field) for field in VfRules.model_fields}
        )


class TrafficClass(Value):
    """One traffic class of a PF. Bandwidths are percent of the link."""

    name: str = ""
    """For people only."""
    pri: Priority
    """The class: 0 … 3 of 4 classes, 0 … 7 of 8."""
    latency: Flag = False
    """Read and reported: VFd kept it and used it nowhere."""
    lsp: Flag = False
    """Strict priority over the whole link, but for what others are guaranteed (`min_bw`,
    `min_rate`); among strict classes the larger `pri` goes first."""
    bsp: Flag = False
    """Strict priority in its bandwidth group, but for what others are guaranteed."""
    max_bw: Annotated[int, Strict(), Field(ge=1, le=100)] = 100
    """The most that the class gets, percent of the link."""
    min_bw: Percent = 0
    """What the class gets however busy the link is, percent of the link."""


class BandwidthGroup(Value):
    """Traffic classes that share their bandwidth; groups lend unused bandwidth to each other."""

    name: str
    classes: tuple[Priority, ...]


Groups = Annotated[
    tuple[BandwidthGroup, ...],
    BeforeValidator(group_list),
    PlainSerializer(_by_name, return_type=dict[str, list[int]]),
    WithJsonSchema(
        {
            "title": "object: name → list of classes",
            "type": "object",
            "additionalProperties": {
                "type": "array",
                "items": {"type": "integer", "minimum": 0, "maximum": 7},
            },
        }
    ),
]


class PfPolicy(Value):
    """One PF of ``pciids`` in the main configuration."""

    id: Device
    """The PF: a PCI address, a netdev's name, or the name of a software NIC to make."""
    backend: Literal["soft", "kernel", "dpdk"] | None = None
    """What enforces the policies; none: chosen by discovery."""
    vfs: Annotated[int, Strict(), Field(ge=0, le=MAX_VFS)] | None = None
    """How many VFs to create; none: as the NIC has it."""
    mtu: Mtu = DEFAULT_MTU
    """The largest MTU that a guest may ask for, in bytes; without it, the main file's
    `default_mtu`."""
    default_mtu: Mtu = DEFAULT_MTU
    """The MTU of a VF that states none; not in the PF's object, copied from the main file."""
    enable_loopback: Flag = False
    """The NIC switches between the VFs of this PF; false: all that they send goes to the wire."""
    promiscuous: Flag = False
    """The PF's own port takes every frame from the wire."""
    vf_oversubscription: Flag = False
    """Guarantees and shares may add up to more than there is; all are then scaled in proportion."""
    tpid: Tpid = 0x8100
    """The TPID of service tags: 0x8100 or 0x88a8, as text or as a number."""
    strict: Flag | None = None
    """What becomes of an attribute that the NIC can't enforce. None: stated ones are refused,
    defaults accepted with a warning; true: both refused; false: both accepted with a warning."""
    enable_qos: Flag = False
    """Traffic classes are in use; copied from the main file."""
    tclasses: tuple[TrafficClass, ...] = ()
    """4 or 8 traffic classes, any that is left out with its defaults; none: 4 equal ones."""
    bw_grps: Groups = ()
    """Bandwidth groups by name, each a list of classes: `{"bwg0": [0], "bwg1": [1, 2]}`."""
    vf_driver: DriverName | None = None
    """The driver that VFs are bound to while no guest holds them, like `vfio-pci`; none: as the
    host binds them. Of NICs that a Linux driver owns (`"backend": "kernel"`)."""
    reserved_macs: tuple[MacPrefix, ...] = ()
    """MACs, or prefixes like `00:00:5e:00:01:00/40`, that no guest is granted and no VF's file
    without `"trust": true` may state: gateways', routers'."""
    unconfigured: Literal["closed", "leave"] = "closed"
    """What becomes of VFs without a configuration: `closed`, or `leave`: another manager has them,
    and they stay as they are."""
    # A software NIC's own:
    link_speed: SpeedField | None = None
    """A software NIC's link, like `"10Gbps"`; none: its uplink's speed, or 10 Gbit/s."""
    uplink: Netdev | None = None
    """The netdev that is a software NIC's wire; none: no wire, which counts as up."""
    guest: Literal["veth", "tap"] = "veth"
    """What a software NIC's VFs are: `veth` for namespaces, `tap` for virtual machines."""

    @property
    def classes(self) -> int:
        """How many traffic classes the PF has."""
        return len(self.tclasses) or 4

    @field_validator("tclasses")
    @classmethod
    def _classes_are_four_or_eight(cls, value: tuple[TrafficClass, ...]) -> Any:
        if value and len(value) not in (4, 8):
            raise ValueError(f"{len(value)} traffic classes: a PF has 4 or 8")
        return value


def reserving(pf: PfPolicy, mac: str) -> str | None:
    """The entry of the PF's ``reserved_macs`` that a canonical MAC is one of."""
    return next((entry for entry in pf.reserved_macs if in_prefix(mac, entry)), None)


class NicPolicy(Value):
    """Everything desired of one NIC: its PF and the VFs that have a configuration."""

    pf: PfPolicy
    vfs: tuple[VfPolicy, ...] = ()

    def by_vfid(self) -> dict[int, VfPolicy]:
        return {vf.vfid: vf for vf in self.vfs}
