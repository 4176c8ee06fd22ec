"""What a VF and a PF may do: the attributes of SEMANTICS, as immutable, validated values.

Field names and defaults are those of the configuration files (docs/configuration.md). A value
of these types has passed every check that needs nothing but itself; the rules between VFs,
and between a VF and its PF, are in ``rules``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from vfd.policy.addresses import UnicastMac, Vid
from vfd.policy.rate import NONE, RateField, SpeedField

C_TAG = 0x8100
"""TPID of a customer tag, IEEE 802.1Q-2018 table 9-1."""
S_TAG = 0x88A8
"""TPID of a service tag, IEEE 802.1Q-2018 table 9-1."""

DEFAULT_MTU = 1500
MAX_VFS = 256
MAX_VLANS = 64
"""Most VLANs in one VF's list where the NIC has no limit of its own."""
MAX_MACS = 64
"""Most further MACs of one VF where the NIC has no limit of its own."""
MAX_GROUPS = 64
"""Most multicast groups one guest may join where the NIC has no limit of its own."""

Mtu = Annotated[int, Field(ge=68, le=9710)]


class Value(BaseModel):
    """Immutable, compared by content, strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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


class Mirror(Value):
    """Copies of a VF's frames to VF ``target`` of the same PF."""

    target: Annotated[int, Field(ge=0)]
    direction: Direction = Direction.ALL
    vlans: tuple[Vid, ...] = ()
    """Only frames in these VLANs; empty: all frames."""


class QueueShare(Value):
    """A VF's share in one traffic class, percent of that class."""

    priority: Annotated[int, Field(ge=0, le=7)]
    share: Annotated[float, Field(ge=0, le=100)]


class VfRules(Value):
    """What a NIC enforces on one VF: everything in a VF's configuration but its identity.

    This is also what ``Nic.observe`` returns for a VF, read back from the NIC.
    """

    vlans: tuple[Vid, ...] = ()
    strip_stag: bool = False
    strip_ctag: bool = False
    allow_untagged: bool = False
    vm_mac: UnicastMac | None = None
    macs: tuple[UnicastMac, ...] = ()
    mac_anti_spoof: bool = True
    vlan_anti_spoof: bool = True
    allow_bcast: bool = True
    allow_mcast: bool = True
    allow_un_ucast: bool = False
    link_status: LinkStatus = LinkStatus.AUTO
    rate: RateField = NONE
    min_rate: RateField = NONE
    max_rx_rate: RateField = NONE
    queues: tuple[QueueShare, ...] = ()
    mirror: tuple[Mirror, ...] = ()
    trust: bool = False
    mtu: Mtu | None = None
    """None: the smaller of ``default_mtu`` and the PF's ``mtu``."""
    storm_limit: Annotated[int, Field(ge=0)] = 0
    """BUM frames per second that the guest may send; 0: no limit."""
    guest_macs: GuestMacs = GuestMacs.ANY
    guest_vlans: bool = True
    guest_groups: bool = True

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

    name: Annotated[str, Field(min_length=1, max_length=255)]
    pciid: Annotated[str, Field(min_length=1)]
    vfid: Annotated[int, Field(ge=0, lt=MAX_VFS)]
    start_cb: str | None = None
    stop_cb: str | None = None

    @property
    def rules(self) -> VfRules:
        """The part that a NIC enforces, without the VF's identity."""
        return VfRules.model_construct(
            **{field: getattr(self, field) for field in VfRules.model_fields}
        )


class TrafficClass(Value):
    """One traffic class of a PF. Bandwidths are percent of the link."""

    name: str = ""
    pri: Annotated[int, Field(ge=0, le=7)]
    latency: bool = False
    """Read and reported: VFd kept it and used it nowhere."""
    lsp: bool = False
    """Strict priority over the whole link."""
    bsp: bool = False
    """Strict priority in its bandwidth group."""
    max_bw: Annotated[int, Field(ge=1, le=100)] = 100
    min_bw: Annotated[int, Field(ge=0, le=100)] = 0


class BandwidthGroup(Value):
    """Traffic classes that share their bandwidth; groups lend unused bandwidth to each other."""

    name: str
    classes: tuple[Annotated[int, Field(ge=0, le=7)], ...]


class PfPolicy(Value):
    """One PF of ``pciids`` in the main configuration."""

    id: Annotated[str, Field(min_length=1)]
    backend: Literal["soft", "kernel", "dpdk"] | None = None
    """None: chosen by discovery."""
    vfs: Annotated[int, Field(ge=0, le=MAX_VFS)] | None = None
    """How many VFs to create; None: as the NIC has it."""
    mtu: Mtu = DEFAULT_MTU
    """The largest MTU that a guest may ask for. The main file's ``default_mtu`` fills it."""
    default_mtu: Mtu = DEFAULT_MTU
    """The MTU of a VF that states none; not in the PF's object, copied from the main file."""
    enable_loopback: bool = False
    promiscuous: bool = False
    vf_oversubscription: bool = False
    tpid: Literal[0x8100, 0x88A8] = 0x8100
    strict: bool | None = None
    enable_qos: bool = False
    """Traffic classes are in use; copied from the main file."""
    tclasses: tuple[TrafficClass, ...] = ()
    """4 or 8 of them, or none: 4 equal classes."""
    bw_grps: tuple[BandwidthGroup, ...] = ()
    # A software NIC's own:
    link_speed: SpeedField | None = None
    """Bits per second; None: the uplink's speed, or 10 Gbit/s without one."""
    uplink: str | None = None
    """The netdev that is the wire; None: no wire, which counts as up."""
    guest: Literal["veth", "tap"] = "veth"

    @model_validator(mode="after")
    def _classes_are_four_or_eight(self) -> Self:
        if self.tclasses and len(self.tclasses) not in (4, 8):
            raise ValueError(f"tclasses has {len(self.tclasses)} classes: a PF has 4 or 8")
        return self


class NicPolicy(Value):
    """Everything desired of one NIC: its PF and the VFs that have a configuration."""

    pf: PfPolicy
    vfs: tuple[VfPolicy, ...] = ()

    def by_vfid(self) -> dict[int, VfPolicy]:
        return {vf.vfid: vf for vf in self.vfs}
