"""MAC addresses and PCI addresses as checked strings in one canonical spelling."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

_MAC = re.compile(r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")

BROADCAST = "ff:ff:ff:ff:ff:ff"


def canonical_mac(text: str) -> str:
    """``02:00:00:00:00:0a`` for any common spelling of it (capitals, dashes).

    Raises ValueError for anything that is not six bytes in hexadecimal.
    """
    mac = text.strip().lower().replace("-", ":")
    if not _MAC.match(mac):
        raise ValueError(f"{text!r} is not a MAC address like 02:00:00:00:00:0a")
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


Mac = Annotated[str, AfterValidator(canonical_mac)]
"""Any MAC address, canonical."""

UnicastMac = Annotated[str, AfterValidator(_own_unicast)]
"""A MAC that a VF may own: unicast and not zero."""

Vid = Annotated[int, Field(ge=1, le=4094)]
"""A VLAN identifier, 1 … 4094: IEEE 802.1Q table 9-2 reserves 0 and 4095."""
