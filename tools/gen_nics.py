"""Writes docs/nics.md from what the kernel backend knows of drivers and surfaces.

gen_nics.py            writes it
gen_nics.py --check    fails where it is not current
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vfd.nic.kernel import intel, mlx
from vfd.nic.kernel.drivers import DRIVERS, Driver
from vfd.nic.kernel.rtnl import Rtnetlink
from vfd.nic.protocol import Capability, Support
from vfd.policy.values import S_TAG, VfRules

PAGE = Path(__file__).resolve().parent.parent / "docs" / "nics.md"

LAB = "proven in the lab"
MODELLED = "modelled"
DOCUMENTED = "from documentation"
_MARKS = {LAB: "●", MODELLED: "◐", DOCUMENTED: "○"}

I40E_README = (
    "Intel's out-of-tree i40e 2.28.16: README, “SR-IOV Hypervisor Management Interface”;"
    " src/kcompat_vfd.c, src/i40e_virtchnl_pf.c"
)
OFED = (
    "MLNX_OFED documentation, “Single Root IO Virtualization (SR-IOV)”, VGT+; its mlx5"
    " sriov_sysfs.c; the VGT+ patches on netdev, 2019-10-30"
)


@dataclass(frozen=True, slots=True)
class Family:
    """One column: a NIC under a driver, in a mode."""

    title: str
    short: str
    driver: str
    proof: str
    """How rtnetlink's part was proven."""
    vendor: tuple[Mapping[str, Capability], str] | None = None
    """What the vendor's sysfs offers, and the source; it is always *modelled*."""
    remark: str = ""


FAMILIES = (
    Family("82576", "82576 igb", "igb", LAB),
    Family("82599, X540, X550", "82599 ixgbe", "ixgbe", DOCUMENTED),
    Family("X710, XL710, X722, the kernel's driver", "X710 in-tree", "i40e", DOCUMENTED),
    Family(
        "X710, XL710, X722, Intel's driver",
        "X710 out-of-tree",
        "i40e",
        DOCUMENTED,
        (intel.offers(), I40E_README),
        "A change of `tpid` restarts all VFs of the device; the X722 has no `tpid`. A closed VF is"
        " disabled (`enable off`): its queues stop.",
    ),
    Family("E810, legacy mode", "E810 legacy", "ice", DOCUMENTED),
    Family("ConnectX-4 and later, legacy mode", "ConnectX legacy", "mlx5_core", DOCUMENTED),
    Family(
        "ConnectX-4 and later, legacy mode, MLNX_OFED",
        "ConnectX OFED",
        "mlx5_core",
        DOCUMENTED,
        (mlx.OFFERS, OFED),
    ),
    Family("BCM573xx, BCM574xx, BCM575xx", "BCM57xxx bnxt", "bnxt_en", DOCUMENTED),
    Family(
        "netdevsim: no NIC, the kernel's own simulation",
        "netdevsim",
        "netdevsim",
        LAB,
        remark="It takes every VF operation and moves no frames.",
    ),
)

INTRO = f"""# NICs: what enforces what

<!-- Written by tools/gen_nics.py (make docs) from the drivers' facts and the surfaces. -->

What the `kernel` backend enforces on each family of NICs, and by which *control surface*:
`rtnl` is rtnetlink's VF operations, `sysfs` the vendor's files, `hwmode` the NIC's bridge mode.
`iplex caps` says the same of the NIC at hand, which is what counts: it is found by looking.

| mark | |
|---|---|
| {_MARKS[LAB]} | *{LAB}*: taken and read back by a real driver ([lab.md](lab.md), also on frames) |
| {_MARKS[MODELLED]} | *{MODELLED}*: on a model of the vendor's files; no driver, no frames |
| {_MARKS[DOCUMENTED]} | *{DOCUMENTED}*: the driver's source or the vendor's README; never run |
| ~ | with a limit, told below |
| – | nothing enforces it: refused where a file states it |

The models (`lab/models/`) were written from the vendors' documents and share no code with the
backend. A stated attribute that is not enforced is refused with the reason and what would
provide it.

virtio-net (`virtio_net`, `virtio-pci`) has VFs and not one VF operation (drivers/net/virtio_net.c,
kernel 6.12): such a PF is refused. Put the software NIC before it.

NICs in **switchdev** mode (E810, ConnectX, BCM57xxx) are not in these tables: the VF operations of
rtnetlink are refused there or have no effect, and the representors take their place:
[switchdev.md](switchdev.md).
"""

KNOWN_LIMITS = """
## What no table says

* **Mirror by VLAN** on the X710: `vlan_mirror` copies the frames of *every* VF in a VLAN. A
  policy's mirror is of one VF, so it is refused rather than done too widely.
* **Untagged only** (no `vlans`) on the X710: an empty trunk lets every VLAN pass, so it is refused.
* **Shares and traffic classes** on the X710 take effect with one write to `qos/apply`, which stops
  and resets every VF of the PF (i40e_set_pf_qos_apply). It is written only where a share or a class
  differs. A share can't go back to 0, and 8 classes don't become 4, until the driver is loaded
  anew.
* **Link state** on the X710 is set through rtnetlink: the sysfs file does not tell `auto` from
  `enable`.
* **Further MACs** on the X710: the driver's list has the guest's own MACs among them. Those that
  vfd did not list are left alone; after a restart all that it finds counts as its own until it
  writes.
* **Between port VLAN and trunk** a VF is closed for a moment, on every NIC that has both: the
  drivers refuse the two at once, or let one undo the other.
* **VGT+** lets a VLAN pass once the guest has asked for a filter on it, as Linux's driver does by
  itself.

## Trying a vendor's interface without the NIC

    python3 -m lab.models intel --vfs 4 /mnt      # or mellanox; serves until its stdin ends
    echo add 2,10-20 > /mnt/1/trunk
    cat /mnt/.model/log /mnt/.model/state         # what was written, and what the device would do

It needs root, `/dev/fuse` and what `make deps` installs. It is a model: what it shows is what the
vendor's documents say, not what a card does.
"""


def offers(family: Family) -> Mapping[str, tuple[Capability, str]]:
    """The strongest capability for each attribute, and how it was proven."""
    unused: Any = None  # what a surface can do is told without the NIC
    base = Rtnetlink(unused, unused, DRIVERS[family.driver]).capabilities()
    found = {attribute: (capability, family.proof) for attribute, capability in base.items()}
    for attribute, capability in (family.vendor[0] if family.vendor else {}).items():
        if attribute not in found or found[attribute][0].support is not Support.ENFORCED:
            found[attribute] = (capability, MODELLED)
    return found


def cell(offer: tuple[Capability, str] | None) -> str:
    if offer is None:
        return "–"
    capability, proof = offer
    by = "sysfs" if capability.by.startswith("sysfs") else "rtnl"
    limited = " ~" if capability.support is Support.LIMITED else ""
    return f"{_MARKS[proof]} {by}{limited}"


def table() -> Iterable[str]:
    columns = [offers(family) for family in FAMILIES]
    yield "| | " + " | ".join(family.short for family in FAMILIES) + " |"
    yield "|---" * (len(FAMILIES) + 1) + "|"
    for attribute in VfRules.model_fields:
        cells = " | ".join(cell(column.get(attribute)) for column in columns)
        yield f"| `{attribute}` | {cells} |"
    counters = " | ".join(
        f"{_MARKS[family.proof]} rtnl" if DRIVERS[family.driver].statistics else "–"
        for family in FAMILIES
    )
    yield f"| counters per VF | {counters} |"


def pf_table() -> Iterable[str]:
    yield "| | " + " | ".join(family.short for family in FAMILIES) + " |"
    yield "|---" * (len(FAMILIES) + 1) + "|"
    for attribute, told in (
        ("enable_loopback", "hwmode"),
        ("tpid", "rtnl ~"),
        ("tclasses", ""),
    ):
        cells = []
        for family in FAMILIES:
            driver = DRIVERS[family.driver]
            has = {"hwmode": driver.bridge_modes, "rtnl ~": S_TAG in driver.vlan_tpids}
            if family.vendor and family.vendor[1] == I40E_README:
                limited = "" if attribute == "enable_loopback" else " ~"
                cells.append(f"{_MARKS[MODELLED]} sysfs{limited}")
            else:
                cells.append(f"{_MARKS[family.proof]} {told}" if has.get(told) else "–")
        yield f"| `{attribute}` | {' | '.join(cells)} |"


def section(family: Family) -> Iterable[str]:
    driver: Driver = DRIVERS[family.driver]
    yield f"### {family.title} (`{family.driver}`)"
    yield ""
    if family.remark:
        yield f"* {family.remark}"
    limits: dict[str, list[str]] = {}
    offered = offers(family)
    for attribute in (name for name in VfRules.model_fields if name in offered):
        capability = offered[attribute][0]
        if capability.support is Support.LIMITED:
            limits.setdefault(f"{capability.by}: {capability.limit}", []).append(f"`{attribute}`")
    yield from (f"* {', '.join(names)} – {limit}" for limit, names in limits.items())
    if driver.mac_needs_rebind:
        yield "* `vm_mac` reaches the guest when its VF driver binds again"
    yield from (f"* {note}" for note in driver.notes)
    sources = [f"kernel 6.12, {driver.source} ({family.proof})"]
    if family.vendor:
        sources.append(f"{family.vendor[1]} ({MODELLED})")
    yield f"* Sources: {'; '.join(sources)}"
    yield ""


def page() -> str:
    lines = [INTRO, "## VF attributes", "", *table(), "", "## PF attributes", "", *pf_table(), ""]
    lines += ["`vfs`, `mtu` and `promiscuous` are set on every NIC, by sysfs and rtnetlink.", ""]
    lines += ["## Limits, notes and sources", ""]
    for family in FAMILIES:
        lines += section(family)
    return "\n".join(lines).rstrip() + "\n" + KNOWN_LIMITS


def main() -> int:
    wanted = page()
    if "--check" in sys.argv[1:]:
        if PAGE.exists() and PAGE.read_text() == wanted:
            return 0
        print(f"{PAGE.name} is not current: make docs", file=sys.stderr)
        return 1
    PAGE.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
