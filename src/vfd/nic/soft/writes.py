"""From one state of the VEB's maps to another, write by write, without a hole in between: pure.

What holds after every single write: each copy of a frame that is delivered, the old or the new
policy delivers too, same port, same bytes. Frames of ports that change may be lost meanwhile (some
100 µs); a port that doesn't change, exchanging frames with others that don't, loses none.

* A port's policy changes whole, by one byte (``veb_active``). Where only one port changes, that is
  all. Where several do, a frame could pass from one that has its new policy to one that still has
  its old, or miss its owner in a VLAN that only one of them is in yet, and be flooded. So there are
  three rounds: all that only lose rights change, and those that change otherwise are shut; those
  that change VLANs do so, still shut; then all get their new policy.
* A MAC that changes hands belongs to nobody meanwhile: frames to it are dropped, not flooded, and
  frames from it are spoofed.
* The hint of a MAC that changes hands is cleared meanwhile. Others may be wrong: the policy of the
  port says whose the MAC is.
* Groups are left before and joined after the ports change.
* ``veb_members`` and ``veb_sets`` say only where to look: they hold both while ports change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from vfd.nic.soft import layout
from vfd.nic.soft.layout import VebPort
from vfd.nic.soft.tables import Tables


@dataclass(frozen=True, slots=True)
class Write:
    """One write to one map. ``value`` None: delete ``key``."""

    map: str
    key: bytes
    value: bytes | None


_RX_FLAGS = (
    layout.PORT_UP | layout.PORT_UNTAGGED | layout.PORT_BCAST | layout.PORT_MCAST
    | layout.PORT_UCAST | layout.PORT_GROUPS | layout.PORT_STRIP | layout.PORT_RX_MIRROR
    | layout.PORT_CONFIGURED
)  # fmt: skip
_TX_FLAGS = (
    layout.PORT_UP | layout.PORT_MAC_SPOOFCHK | layout.PORT_VLAN_SPOOFCHK | layout.PORT_UNTAGGED
    | layout.PORT_INSERT | layout.PORT_SERVICE | layout.PORT_LOOPBACK | layout.PORT_TX_MIRROR
    | layout.PORT_CONFIGURED
)  # fmt: skip
_RIGHTS = (
    layout.PORT_UP | layout.PORT_UNTAGGED | layout.PORT_BCAST | layout.PORT_MCAST
    | layout.PORT_UCAST | layout.PORT_GROUPS
)  # fmt: skip
"""Flags that let more pass when they are set."""
_CHECKS = layout.PORT_MAC_SPOOFCHK | layout.PORT_VLAN_SPOOFCHK
"""Flags that let less pass when they are set."""


def diff(old: Tables, new: Tables) -> tuple[Write, ...]:
    """The writes that lead from ``old`` (as read: with ``slots``) to ``new``, in their order."""
    return tuple(_writes(old, new))


def _writes(old: Tables, new: Tables) -> Iterator[Write]:
    ports = [
        port
        for port in sorted(old.ports.keys() | new.ports.keys())
        if old.ports.get(port) != new.ports.get(port)
    ]
    macs = [
        key
        for key in sorted(old.macs.keys() | new.macs.keys())
        if old.macs.get(key) != new.macs.get(key)
    ]
    alone = len(ports) + len(macs) + len(old.groups ^ new.groups) <= 1

    yield from _set_writes("veb_members", old.members, new.members, both=True)
    yield from _set_writes("veb_sets", old.sets, new.sets, both=True)
    for ifindex, port in old.ifaces.items():
        if new.ifaces.get(ifindex) != port:
            yield Write("veb_ifaces", _u32(ifindex), None)
    kept = dict(old.hints)
    if not alone:
        for key in macs:
            yield Write("veb_macs", key, _nobody(key))
            kept.pop(layout.hint_of(key[:6]), None)
    yield from _hint_writes(old.hints, kept)
    for group in sorted(old.groups - new.groups):
        yield Write("veb_groups", group, None)

    yield from _port_writes(old, new, ports)

    for group in sorted(new.groups - old.groups):
        yield Write("veb_groups", group, b"\1")
    for key in macs:
        yield Write("veb_macs", key, new.macs.get(key))
    yield from _hint_writes(kept, new.hints)
    for ifindex, port in new.ifaces.items():
        if old.ifaces.get(ifindex) != port:
            yield Write("veb_ifaces", _u32(ifindex), _u32(port))
    yield from _set_writes("veb_members", old.members, new.members, both=False)
    yield from _set_writes("veb_sets", old.sets, new.sets, both=False)
    if old.note != new.note:
        yield Write("veb_note", _u32(0), new.note.ljust(layout.NOTE, b"\0"))


def _port_writes(old: Tables, new: Tables, ports: list[int]) -> Iterator[Write]:
    """New policies into slots that are not in force, then the slots into force; in rounds where
    ports could otherwise be seen in a mixture of old and new."""
    nothing = bytes(VebPort())
    steps = {port: (old.ports.get(port, nothing), new.ports.get(port, nothing)) for port in ports}
    mixable = _mixable(steps.values())
    rounds: tuple[dict[int, bytes], ...] = ({}, {}, {})
    for port, (before, after) in steps.items():
        way = (after,) * 3 if mixable else _way(before, after)
        for values, was, value in zip(rounds, (before, *way), way, strict=False):
            if value != was:
                values[port] = value
    slots = dict(old.slots)
    for values in rounds:
        for port in values:
            slots[port] = (slots.get(port, 0) + 1) % layout.SLOTS
        for port, value in values.items():
            yield Write("veb_ports", _u32(port * layout.SLOTS + slots[port]), value)
        for port in values:
            yield Write("veb_active", _u32(port), bytes((slots[port],)))


def _way(before: bytes, after: bytes) -> tuple[bytes, bytes, bytes]:
    """A port's policy after each of the three rounds, where others change with it."""
    if _keeps_vlans(before, after):
        if _restricts(before, after):
            return after, after, after
        if _restricts(after, before):
            return before, before, after
    return _shut(before), _shut(after), after


def _keeps_vlans(before: bytes, after: bytes) -> bool:
    """Whether the same frames find their owner at the port. Where it is closed before or after,
    its MACs change hands, and so belong to nobody meanwhile: no frame is looked for there."""
    a, b = VebPort.from_buffer_copy(before), VebPort.from_buffer_copy(after)
    if not a.flags & b.flags & layout.PORT_CONFIGURED:
        return True
    return (a.flags ^ b.flags) & layout.PORT_UNTAGGED == 0 and (a.tpid, bytes(a.vlans)) == (
        b.tpid,
        bytes(b.vlans),
    )


def _mixable(steps: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether ports may be seen in any mixture of old and new: one port only, or changes that
    all concern only what ports send, or only what they are given."""
    pairs = [(VebPort.from_buffer_copy(a), VebPort.from_buffer_copy(b)) for a, b in steps]
    return (
        len(pairs) <= 1
        or all(_rx_part(before) == _rx_part(after) for before, after in pairs)
        or all(_tx_part(before) == _tx_part(after) for before, after in pairs)
    )


def _rx_part(port: VebPort) -> tuple[object, ...]:
    """What decides over frames towards the port, and over copies to and from it."""
    mirror = bytes(port.mirror)
    return port.flags & _RX_FLAGS, port.ifindex, port.tpid, bytes(port.vlans), mirror


def _tx_part(port: VebPort) -> tuple[object, ...]:
    """What decides over frames from the port, and over copies to and from it."""
    return (
        port.flags & _TX_FLAGS,
        port.ifindex,
        port.tpid,
        port.vid,
        port.mtu,
        bytes(port.mac),
        bytes(port.vlans),
        bytes(port.mirror),
    )


def _restricts(before: bytes, after: bytes) -> bool:
    """Whether ``after`` does nothing that ``before`` doesn't do in the same way."""
    a, b = VebPort.from_buffer_copy(before), VebPort.from_buffer_copy(after)
    if not b.flags & layout.PORT_UP:
        return True
    given = b.flags & ~a.flags & _RIGHTS
    taken = a.flags & ~b.flags & _CHECKS
    same = (_RX_FLAGS | _TX_FLAGS) & ~_RIGHTS & ~_CHECKS
    return (
        not given
        and not taken
        and (a.flags ^ b.flags) & same == 0
        and (a.ifindex, a.tpid, a.vid, bytes(a.mac)) == (b.ifindex, b.tpid, b.vid, bytes(b.mac))
        and b.mtu <= a.mtu
        and bytes(a.mirror) == bytes(b.mirror)
        and all(not b.vlans[i] & ~a.vlans[i] for i in range(64))
    )


def _shut(value: bytes) -> bytes:
    """The policy with its link down."""
    port = VebPort.from_buffer_copy(value)
    port.flags &= ~layout.PORT_UP
    return bytes(port)


def _set_writes(
    name: str, old: Mapping[int, int], new: Mapping[int, int], *, both: bool
) -> Iterator[Write]:
    """Sets of ports: to the union of old and new, or from there to new."""
    for at in sorted(old.keys() | new.keys()):
        before, after = old.get(at, 0), new.get(at, 0)
        union = before | after
        if both and union != before:
            yield Write(name, _u32(at), _ports(union))
        elif not both and union != after:
            yield Write(name, _u32(at), _ports(after))


def _hint_writes(old: Mapping[int, int], new: Mapping[int, int]) -> Iterator[Write]:
    for at in sorted(old.keys() | new.keys()):
        if old.get(at) != new.get(at):
            yield Write("veb_hints", _u32(at), new.get(at, 0).to_bytes(2, layout.ORDER))


def _nobody(key: bytes) -> bytes:
    return key[:6] + layout.NOBODY.to_bytes(2, layout.ORDER)


def _u32(value: int) -> bytes:
    return value.to_bytes(4, layout.ORDER)


def _ports(bits: int) -> bytes:
    """``struct veb_set``."""
    words = (bits >> 64 * at & (1 << 64) - 1 for at in range(layout.WORDS))
    return b"".join(word.to_bytes(8, layout.ORDER) for word in words)
