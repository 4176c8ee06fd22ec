"""devlink's parameters that decide what VFs can do. They are the administrator's: read, not set.

Most take effect when the driver is loaded anew (``devlink dev reload``), some after a reboot.
Sources: Documentation/networking/devlink/devlink-params.rst and ice.rst.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping
from typing import Any

from vfd.nic.kernel import genl
from vfd.nic.netlink import (
    NETLINK_GENERIC,
    Attrs,
    Netlink,
    NetlinkError,
    attr_text,
    parse_attrs,
    text,
)
from vfd.nic.protocol import Capability, Support

_PARAM_GET = 38
_BUS, _DEVICE = 1, 2
_PARAM, _NAME, _TYPE, _VALUES, _VALUE, _DATA = 80, 81, 83, 84, 85, 86
_U8, _U16, _U32, _STRING, _FLAG = 1, 2, 3, 5, 6
_NUMBERS = {_U8: "=B", _U16: "=H", _U32: "=I"}
MAX_MACS = "max_macs"
_SHOWN = (MAX_MACS, "enable_sriov", "local_forwarding", "msix_vec_per_pf_max")
"""Those that are read: a driver may ask its firmware for each."""


def params(bus: str, device: str) -> Mapping[str, Any]:
    """The values of those that the driver has. Nothing where there is no devlink."""
    netlink = Netlink(NETLINK_GENERIC)
    found = {}
    try:
        family = genl.family(netlink, "devlink").id
        handle = attr_text(_BUS, bus) + attr_text(_DEVICE, device)
        for name in _SHOWN:
            try:
                body = genl.message(_PARAM_GET, handle, attr_text(_NAME, name))
                answer = parse_attrs(netlink.get(family, body, name), genl.HEADER)
            except NetlinkError as error:
                if error.errno == errno.ENODEV:
                    break
                continue
            value = _value(parse_attrs(answer.get(_PARAM, b"")))
            if value is not None:
                found[name] = value
    except NetlinkError:
        return {}
    finally:
        netlink.close()
    return found


def param_capabilities(found: Mapping[str, Any]) -> Mapping[str, Capability]:
    """The parameters as listings show them."""
    offers = {}
    if MAX_MACS in found:
        offers[MAX_MACS] = _limit(f"{found[MAX_MACS]} unicast MACs for each port of the device")
    if "msix_vec_per_pf_max" in found:
        offers["msix_vec_per_pf_max"] = _limit(
            f"{found['msix_vec_per_pf_max']} interrupt vectors for the PF and what it gives its VFs"
        )
    if found.get("enable_sriov") is False:
        offers["enable_sriov"] = Capability(
            Support.ABSENT,
            reason="the parameter is off: devlink dev param set, then load the driver anew",
            consequence="no VF can be made",
        )
    if found.get("local_forwarding") == "disabled":
        offers["local_forwarding"] = Capability(
            Support.ABSENT,
            reason="the parameter is 'disabled': devlink dev param set",
            consequence="VFs of this PF do not reach each other inside the NIC",
        )
    return offers


def _limit(words: str) -> Capability:
    return Capability(Support.LIMITED, by="devlink", limit=words)


def _value(param: Attrs) -> Any:
    values = parse_attrs(param.get(_VALUES, b""))
    if _TYPE not in param or _VALUE not in values:
        return None
    kind, value = param[_TYPE][0], parse_attrs(values[_VALUE])
    if kind == _FLAG:
        return _DATA in value
    if _DATA not in value:
        return None
    if kind in _NUMBERS:
        form = _NUMBERS[kind]
        return struct.unpack(form, value[_DATA][: struct.calcsize(form)])[0]
    return text(value[_DATA]) if kind == _STRING else None
