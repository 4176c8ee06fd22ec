"""MAC addresses, PCI addresses, netdev names and VLAN lists, checked, in one canonical spelling."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    Strict,
    StringConstraints,
    WithJsonSchema,
)

from vfd.policy.shown import SHOWN, SHOWN_BY_VFD, shown

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_PCI = re.compile(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}:[01][0-9a-f]\.[0-7])")
_NETDEV = re.compile(r"[!-$&-.0-9;-~]{1,15}", re.ASCII)
_SOFT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*", re.ASCII)
_RANGE = re.compile(r"(\d{1,4})\s*-\s*(\d{1,4})", re.ASCII)

_WORDS = {"lo", "default", "off", "on", *SHOWN, *SHOWN_BY_VFD}

MAX_VID = 4094
_MAC_BITS = 48
BROADCAST = "ff:ff:ff:ff:ff:ff"
MAX_NETDEV = 15
"""Longest name of a netdev: IFNAMSIZ - 1, linux/include/uapi/linux/if.h."""


def canonical_mac(text: str) -> str:
    """``02:00:00:00:00:0a`` for any common spelling of it (capitals, dashes).

    Raises ValueError for anything that is not six bytes in hexadecimal.
    """
    mac = text.strip().lower().replace("-", ":")
    if not _MAC.fullmatch(mac):
        raise ValueError(f"{shown(text)} is not a MAC address like 02:00:00:00:00:0a")
    return mac


def mac_bytes(mac: str) -> bytes:
    """The six bytes of a canonical MAC, in wire order."""
    return bytes.fromhex(mac.replace(":", ""))


def mac_text(raw: bytes) -> str:
    """The canonical spelling of six bytes in wire order."""
    return raw.hex(":")


def is_multicast(mac: str) -> bool:
    """The group bit of IEEE 802-2014, 8.2.2; true of broadcast too."""
    return bool(int(mac[1], 16) & 1)


def is_zero(mac: str) -> bool:
    return mac == "00:00:00:00:00:00"


def _own_unicast(mac: str) -> str:
    mac = canonical_mac(mac)
    if is_multicast(mac):
        raise ValueError(f"{mac} is a multicast address: no VF can own it")
    if is_zero(mac):
        raise ValueError("the zero address: no VF can own it")
    return mac


def is_pci_address(device: str) -> bool:
    """Whether a device is named by its PCI address, not by its netdev."""
    return _PCI.fullmatch(device) is not None


def is_netdev_name(text: str) -> bool:
    """Whether the kernel would take it as one (dev_valid_name), and a folder of sysfs is one's. It
    would take ``%d`` too, and make a number of it (dev_alloc_name): no netdev is called so."""
    return _NETDEV.fullmatch(text) is not None and text not in (".", "..")


def canonical_device(text: str) -> str:
    """``0000:07:00.1`` for a PCI address, with or without its domain and as the kernel writes that
    (at least four digits: ``pci_setup_device``); a netdev's name as it is.

    Raises ValueError for what can be neither (a netdev's name is at most 15 characters, without
    ``/``, ``:``, ``%`` and white space: dev_valid_name in linux/net/core/dev.c).
    """
    device = text.strip()
    if found := _PCI.fullmatch(device.lower()):
        return f"{int(found[1] or '0', 16):04x}:{found[2]}"
    if not is_netdev_name(device):
        raise ValueError(
            f"{shown(text)} is neither a PCI address like 0000:07:00.1 nor the name of a netdev"
            f" like ens1f0 (at most {MAX_NETDEV} characters, without '/', ':', '%' and blanks)"
        )
    return device


def no_soft_id(name: str) -> str | None:
    """Why a software NIC can't be called so, though a netdev could; None: it can. The name is part
    of netdevs' names, of a namespace's (a file), and a word on command lines."""
    if not _SOFT_ID.fullmatch(name):
        return (
            "a software NIC's name has letters, digits, '_', '-' and '.', and begins with a letter"
            " or digit: the kernel, a shell and `iplex` read other characters in their own ways"
        )
    if name in _WORDS:
        return "that word means something else to the kernel or `iplex`: call it soft0, say"
    return None


def checked_netdev(text: str) -> str:
    """A netdev's name. Raises ValueError for what the kernel would not take as one."""
    name = text.strip()
    if not is_netdev_name(name):
        raise ValueError(
            f"{shown(text)} is not the name of a netdev like ens1f0 (at most {MAX_NETDEV}"
            " characters, without '/', ':', '%' and blanks)"
        )
    return name


def expand_vlans(value: Any) -> Any:
    """A list of VIDs with its ranges (``"10-20"``) and numbers in quotes written out.

    Anything else in the list, and anything that is no list, is left for the field's type to refuse.
    Raises ValueError for a range that runs backwards or leaves 1 … 4094, and for ranges that
    have each VLAN many times over.
    """
    if not isinstance(value, list | tuple):
        return value
    if len(value) <= 2 * MAX_VID and all(type(entry) is int for entry in value):
        return value
    vids: list[Any] = []
    for entry in value:
        if len(vids) > 2 * MAX_VID:
            raise ValueError(f"more VLANs than there are: 1 … {MAX_VID}")
        if not isinstance(entry, str):
            vids.append(entry)
            continue
        text = entry.strip()
        if found := _RANGE.fullmatch(text):
            first, last = int(found[1]), int(found[2])
            if not 1 <= first <= last <= MAX_VID:
                rule = f"not a range of VLANs from low to high in 1 … {MAX_VID}"
                raise ValueError(f"{shown(entry)} is {rule}")
            vids.extend(range(first, last + 1))
        elif re.fullmatch(r"\d{1,4}", text, re.ASCII):
            vids.append(int(text))
        else:
            raise ValueError(f'{shown(entry)} is neither a VLAN like 100 nor a range like "10-20"')
    return vids


def vlan_ranges(vids: Iterable[int]) -> list[int | str]:
    """The shortest list that ``expand_vlans`` writes out as these, in their order: runs of three
    and more are ranges, ``[5, "10-12"]``."""
    return list(_ranges(tuple(vids)))


@lru_cache(maxsize=1024)  # VFs that have many VLANs mostly have the same
def _ranges(vids: tuple[int, ...]) -> tuple[int | str, ...]:
    runs: list[list[int]] = []
    for vid in vids:
        if runs and vid == runs[-1][1] + 1:
            runs[-1][1] = vid
        else:
            runs.append([vid, vid])
    found: list[int | str] = []
    for first, last in runs:
        found += [f"{first}-{last}"] if last > first + 1 else range(first, last + 1)
    return tuple(found)


def mac_prefix(text: str) -> str:
    """MACs that begin alike, ``00:00:5e:00:01:00/40``, in one spelling: with the bits behind the
    prefix zero, and one MAC alone (48 bits) without its length.

    Raises ValueError for anything else, and for a length of 0, which is every MAC.
    """
    address, slash, bits = text.strip().partition("/")
    mac = canonical_mac(address)
    if not slash:
        return mac
    digits = bits.isascii() and bits.isdigit() and len(bits) <= 4
    if not (digits and 1 <= int(bits) <= _MAC_BITS):
        raise ValueError(
            f"{shown(text)} is no prefix of MACs like 00:00:5e:00:01:00/40: its length is 1 …"
            f" {_MAC_BITS} bits"
        )
    length = int(bits)
    masked = mac_text(_leading(mac, length).to_bytes(6, "big"))
    return masked if length == _MAC_BITS else f"{masked}/{length}"


def in_prefix(mac: str, prefix: str) -> bool:
    """Whether a canonical MAC is one of a canonical prefix."""
    address, slash, bits = prefix.partition("/")
    if not slash:
        return mac == address
    return _leading(mac, int(bits)) == int.from_bytes(mac_bytes(address), "big")


def _leading(mac: str, bits: int) -> int:
    """The MAC as a number, with all but its first bits zero."""
    behind = _MAC_BITS - bits
    return int.from_bytes(mac_bytes(mac), "big") >> behind << behind


_UNICAST_PATTERN = r"^\s*(?!00([:-]00){5})[0-9A-Fa-f][02468ACEace]([:-][0-9A-Fa-f]{2}){5}\s*$"

Mac = Annotated[str, AfterValidator(canonical_mac)]
"""Any MAC address, canonical."""

UnicastMac = Annotated[
    str,
    AfterValidator(_own_unicast),
    WithJsonSchema({"title": "unicast MAC", "type": "string", "pattern": _UNICAST_PATTERN}),
]
"""A MAC that a VF may own: unicast and not zero."""

MacPrefix = Annotated[
    str,
    AfterValidator(mac_prefix),
    WithJsonSchema(
        {
            "title": "MAC or prefix",
            "type": "string",
            "pattern": r"^\s*[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}"
            r"(/0{0,2}([1-9]|[1-3][0-9]|4[0-8]))?\s*$",
        }
    ),
]
"""A MAC, or all MACs that begin alike: ``00:00:5e:00:01:00/40``."""

Vid = Annotated[int, Strict(), Field(ge=1, le=MAX_VID)]
"""A VLAN identifier, 1 … 4094: IEEE 802.1Q table 9-2 reserves 0 and 4095."""

Vlans = Annotated[
    tuple[Vid, ...],
    BeforeValidator(expand_vlans),
    PlainSerializer(vlan_ranges, return_type=list[int | str], when_used="json"),
    WithJsonSchema(
        {
            "title": "list of VIDs (1 … 4094) and ranges",
            "type": "array",
            "items": {
                "anyOf": [
                    {"type": "integer", "minimum": 1, "maximum": 4094},
                    {"type": "string", "pattern": r"^\s*[0-9]{1,4}(\s*-\s*[0-9]{1,4})?\s*$"},
                ]
            },
        }
    ),
]
"""VIDs in the order of the file; ranges as strings are written out, and made again in JSON."""

Device = Annotated[
    str,
    AfterValidator(canonical_device),
    WithJsonSchema(
        {
            "title": "PCI address or name",
            "type": "string",
            "anyOf": [
                {"pattern": r"^\s*([0-9A-Fa-f]{4,8}:)?[0-9A-Fa-f]{2}:[01][0-9A-Fa-f]\.[0-7]\s*$"},
                {"pattern": r"^\s*(?!\.\.?\s*$)[!-$&-.0-9;-~]{1,15}\s*$"},
            ],
        }
    ),
]
"""A PF: its PCI address, canonical, or its netdev's name."""

DriverName = Annotated[str, Strict(), StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
"""A PCI driver, as ``/sys/bus/pci/drivers`` names it."""

Netdev = Annotated[
    str,
    AfterValidator(checked_netdev),
    WithJsonSchema(
        {
            "title": "name of a netdev",
            "type": "string",
            "pattern": r"^\s*(?!\.\.?\s*$)[!-$&-.0-9;-~]{1,15}\s*$",
        }
    ),
]
