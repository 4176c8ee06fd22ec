"""Writes docs/nics.md from what the kernel backend knows of drivers and surfaces.

gen_nics.py            writes it
gen_nics.py --check    fails where it is not current
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from tools.nics_proofs import MODELLED_BY, PROVEN_BY

from vfd.nic.kernel import intel, mlx, switchdev
from vfd.nic.kernel.capabilities import of_frames
from vfd.nic.kernel.devlink_rate import DevlinkRate
from vfd.nic.kernel.drivers import DRIVERS, Driver
from vfd.nic.kernel.rtnl import Rtnetlink
from vfd.nic.protocol import BESIDE, Capability, Support
from vfd.policy.values import C_TAG, S_TAG, VfRules

PAGE = Path(__file__).resolve().parent.parent / "docs" / "nics.md"
_UNUSED: Any = None
"""What a surface can do is told without the NIC."""

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
    " sriov_sysfs.c and en_main.c; the VGT+ patches on netdev, 2019-10-30"
)
VIRTIO = "virtio_net"


@dataclass(frozen=True, slots=True)
class Family:
    """One column: a NIC under a driver, in a mode."""

    title: str
    short: str
    driver: str
    vendor: tuple[Mapping[str, Capability], str] | None = None
    """What the vendor's sysfs offers, and the source."""
    tpids: tuple[int, ...] | None = None
    """TPIDs of port VLANs where they are not those of the kernel's own driver."""
    switchdev: bool = False
    remark: str = ""

    @property
    def facts(self) -> Driver | None:
        """None: the driver has no VF operations."""
        driver = DRIVERS.get(self.driver)
        if driver is not None and self.tpids is not None:
            return replace(driver, vlan_tpids=self.tpids)
        return driver


FAMILIES = (
    Family("82576", "82576 igb", "igb", remark="The I350, igb's other NIC, has no rates."),
    Family("82599, X540, X550", "82599 ixgbe", "ixgbe"),
    Family("X710, XL710, X722, the kernel's driver", "X710 in-tree", "i40e"),
    Family(
        "X710, XL710, X722, Intel's driver",
        "X710 out-of-tree",
        "i40e",
        vendor=(intel.offers(), I40E_README),
        remark="A change of `tpid` restarts all VFs of the device; the X722 has no `tpid`. A closed"
        " VF is disabled (`enable off`): its queues stop.",
    ),
    Family("E810, legacy mode", "E810 legacy", "ice"),
    Family("E810, switchdev mode", "E810 switchdev", "ice", switchdev=True),
    Family("ConnectX-4, -5, -6, legacy mode", "ConnectX legacy", "mlx5_core"),
    Family(
        "ConnectX-4, -5, -6, legacy mode, MLNX_OFED",
        "ConnectX OFED",
        "mlx5_core",
        vendor=(mlx.OFFERS, OFED),
        tpids=(C_TAG, S_TAG),
    ),
    Family("ConnectX-4, -5, -6, switchdev mode", "ConnectX switchdev", "mlx5_core", switchdev=True),
    Family("BCM573xx, BCM574xx, BCM575xx, legacy mode", "BCM57xxx bnxt", "bnxt_en"),
    Family(
        "virtio-net",
        "virtio-net",
        VIRTIO,
        remark="It has VFs and not one VF operation (drivers/net/virtio_net.c, kernel 6.12): such a"
        " PF is refused as a whole. Put the software NIC before it.",
    ),
    Family(
        "netdevsim: no NIC, the kernel's own simulation",
        "netdevsim",
        "netdevsim",
        remark="It takes every VF operation and moves no frames.",
    ),
    Family(
        "netdevsim, switchdev mode",
        "netdevsim switchdev",
        "netdevsim",
        switchdev=True,
        remark="It acknowledges every rule and moves no frames.",
    ),
)

INTRO = f"""# NICs: what enforces what

<!-- Written by tools/gen_nics.py (make docs) from the drivers' facts and the surfaces. -->

What the `kernel` backend enforces on each family of NICs, and by which *control surface*:
`rtnl` is rtnetlink's VF operations, `sysfs` the vendor's files, `switchdev` the VFs' representors
and the rules at them ([switchdev.md](switchdev.md)), `devlink` its rates, `hwmode` the NIC's bridge
mode. `iplex caps` says the same of the NIC at hand, which is what counts: it is found by looking.

| mark | |
|---|---|
| {_MARKS[LAB]} | *{LAB}*: taken and read back by a real driver, by the test that is named below |
| {_MARKS[MODELLED]} | *{MODELLED}*: on a model of the vendor's files; no driver, no frames |
| {_MARKS[DOCUMENTED]} | *{DOCUMENTED}*: the driver's source or the vendor's README; never run |
| ~ | with a limit, told below |
| – | nothing enforces it: refused where a file states it |

A mark is of one attribute on one NIC. Frames were sent on the 82576 alone: [lab.md](lab.md). The
models (`lab/models/`) were written from the vendors' documents and share no code with the backend.
A stated attribute that is not enforced is refused with the reason and what would provide it.
"""

PF_NOTE = (
    "`vfs`, `mtu` and `promiscuous` are set on every NIC, by sysfs and rtnetlink. Where nothing"
    " sets `enable_loopback` it is always on: false is refused where it is stated, and warned of"
    " where not."
)

KNOWN_LIMITS = """
## What no table says

* **Mirror by VLAN** on the X710: `vlan_mirror` copies the frames of *every* VF in a VLAN. A
  policy's mirror is of one VF, so it is refused rather than done too widely.
* **Untagged only** (no `vlans`) on the X710: an empty trunk lets every VLAN pass, so it is refused.
* **Shares and traffic classes** on the X710 take effect with one write to `qos/apply`, which stops
  and resets every VF of the PF (i40e_set_pf_qos_apply). It is written only where a share or a class
  differs. A share can't go back to 0, and 8 classes don't become 4, until the driver is loaded
  anew.
* **Rates with classes** on the X710: the driver ignores a VF's rate then; `rate` is written to the
  VF's `max_tc_tx_rate` of every class, and holds in each.
* **MAC control frames** (PAUSE, PFC) of guests and **veiled tags** (a tag behind a priority tag)
  are refused by the contract, whatever a policy says. The table has where that is known; – is "not
  known", and `iplex caps` says what follows.
* **PCP**: a port VLAN has one priority, `pcp`, which is that of every frame, whatever priority tag
  its guest sends. In switchdev mode a guest's priority tag has its own.
* **MTU** is the guest's choice on all of them: the drivers hold it to the NIC's largest frame
  (igb_set_vf_rlpml, ixgbe_set_vf_lpe, ice_vc_get_max_frame_size), and none lets the host set it.
* **Files of the vendors' interfaces that are not used**, and why: [decisions.md](decisions.md).
* **Changes by hand** of the vendors' files are heard by inotify and are drift. What a driver
  changes in them by itself is seen with the next event of the PF.
* **Link state** on the X710 is set through rtnetlink: the sysfs file does not tell `auto` from
  `enable`.
* **Further MACs** on the X710: the driver's list has the guest's own MACs among them. Those that
  vfd did not list are left alone. After a restart vfd can't tell them from what a policy listed
  before: of the MACs that it finds it takes those of a closed VF and those that are another VF's
  now; what no policy lists any more stays with its guest until the VF is deleted.
* **Between port VLAN and trunk** a VF is closed for a moment, on every NIC that has both: the
  drivers refuse the two at once, or let one undo the other.
* **VGT+** lets a VLAN pass once the guest has asked for a filter on it, as Linux's driver does by
  itself.

## Trying a vendor's interface without the NIC

    .venv/bin/python -m lab.models intel --vfs 4 /mnt   # or mellanox; serves until its stdin ends
    echo add 2,10-20 > /mnt/1/trunk
    cat /mnt/.model/log /mnt/.model/state         # what was written, and what the device would do

It needs root, `/dev/fuse` and what `make venv` installs. It is a model: what it shows is what the
vendor's documents say, not what a card does.
"""


def offers(family: Family) -> Mapping[str, Capability]:
    """The strongest capability for each attribute."""
    facts = family.facts
    if facts is None:
        return {}
    if family.switchdev:
        rules = Capability(Support.LIMITED, by="switchdev", limit="in hardware or by the CPU")
        found = dict(Rtnetlink(_UNUSED, 0, _in_switchdev(facts)).capabilities())
        found |= DevlinkRate(_UNUSED, _UNUSED).capabilities()
        return found | dict.fromkeys((*switchdev._OFFERS, "link_status"), rules)
    found = dict(Rtnetlink(_UNUSED, 0, facts).capabilities())
    for attribute, capability in (family.vendor[0] if family.vendor else {}).items():
        if attribute not in found or found[attribute].support is not Support.ENFORCED:
            found[attribute] = capability
    return found


def _in_switchdev(facts: Driver) -> Driver:
    return replace(facts, vlan_tpids=(), spoofchk=False, trust=False)


def proof(family: Family, attribute: str, surface: str) -> str:
    """How it is known that the surface enforces the attribute on this NIC."""
    if (family.short, attribute) in PROVEN_BY:
        return LAB
    return MODELLED if (family.short, attribute, surface) in MODELLED_BY else DOCUMENTED


def cell(family: Family, attribute: str, offer: Capability | None) -> str:
    if offer is None:
        return "–"
    by = {"rtnetlink": "rtnl"}.get(offer.by, offer.by.partition(":")[0])
    limited = " ~" if offer.support is Support.LIMITED else ""
    return f"{_MARKS[proof(family, attribute, by)]} {by}{limited}"


def table() -> Iterable[str]:
    columns = [offers(family) for family in FAMILIES]
    yield "| | " + " | ".join(family.short for family in FAMILIES) + " |"
    yield "|---" * (len(FAMILIES) + 1) + "|"
    for attribute in VfRules.model_fields:
        cells = " | ".join(
            cell(family, attribute, column.get(attribute))
            for family, column in zip(FAMILIES, columns, strict=True)
        )
        yield f"| `{attribute}` | {cells} |"
    for rule in BESIDE:
        cells = " | ".join(_beside(family, rule) for family in FAMILIES)
        yield f"| {rule.replace('_', ' ')} | {cells} |"
    yield f"| counters per VF | {' | '.join(_counters(family) for family in FAMILIES)} |"


def _beside(family: Family, rule: str) -> str:
    if family.facts is None:
        return "–"
    found = of_frames({"vlans": offers(family)["vlans"]}, family.facts)[rule]
    by = found.by if found.by != "the driver" else "driver"
    return "–" if found.support is Support.ABSENT else f"{_MARKS[DOCUMENTED]} {by} ~"


def _counters(family: Family) -> str:
    cells = []
    if family.facts and family.facts.statistics:
        cells.append(f"{_MARKS[DOCUMENTED]} rtnl")
    if family.vendor and family.vendor[1] == I40E_README:
        cells.append(f"{_MARKS[proof(family, 'counters', 'sysfs')]} sysfs")
    return ", ".join(cells) or "–"


def pf_table() -> Iterable[str]:
    yield "| | " + " | ".join(family.short for family in FAMILIES) + " |"
    yield "|---" * (len(FAMILIES) + 1) + "|"
    for attribute in ("enable_loopback", "tpid", "enable_qos", "tclasses"):
        cells = " | ".join(
            cell(family, attribute, pf_offers(family).get(attribute)) for family in FAMILIES
        )
        yield f"| `{attribute}` | {cells} |"


def pf_offers(family: Family) -> Mapping[str, Capability]:
    """The same for the PF's own attributes."""

    def by(surface: str, support: Support = Support.LIMITED) -> Capability:
        return Capability(support, by=surface)

    facts = family.facts
    if facts is None:
        return {}
    if family.switchdev:
        return dict.fromkeys(("enable_loopback", "tpid"), by("switchdev"))
    if family.vendor and family.vendor[1] == I40E_README:
        classes = dict.fromkeys(("tpid", "enable_qos", "tclasses"), by("sysfs"))
        return {"enable_loopback": by("sysfs", Support.ENFORCED), **classes}
    found = {}
    if facts.bridge_modes:
        found["enable_loopback"] = by("hwmode", Support.ENFORCED)
    if S_TAG in facts.vlan_tpids:
        found["tpid"] = by("rtnetlink")
    return found


def section(family: Family) -> Iterable[str]:
    yield f"### {family.title} (`{family.driver}`)"
    yield ""
    if family.remark:
        yield f"* {family.remark}"
    if family.facts is not None:
        yield from _limits(family)
        yield from _sources(family, family.facts)
        yield from _tests(family)
    yield ""


def _limits(family: Family) -> Iterable[str]:
    limits: dict[str, list[str]] = {}
    offered = offers(family)
    for attribute in (name for name in VfRules.model_fields if name in offered):
        capability = offered[attribute]
        if capability.support is Support.LIMITED:
            limits.setdefault(f"{capability.by}: {capability.limit}", []).append(f"`{attribute}`")
    yield from (f"* {', '.join(names)} – {limit}" for limit, names in limits.items())


def _sources(family: Family, facts: Driver) -> Iterable[str]:
    if facts.mac_needs_rebind:
        yield "* `vm_mac` reaches the guest when its VF driver binds again"
    if not family.switchdev:
        yield from (f"* {note}" for note in facts.notes)
        if facts.mac_control:
            yield f"* MAC control frames are dropped {facts.mac_control}"
    yield f"* Source of `rtnl` and `hwmode`: kernel 6.12, {facts.source}"
    if family.vendor:
        yield f"* Source of `sysfs`: {family.vendor[1]}"
    if family.switchdev:
        yield (
            "* Source of `switchdev` and `devlink`: [switchdev.md](switchdev.md); kernel 6.12,"
            " include/uapi/linux/pkt_cls.h (flower), net/devlink/rate.c"
        )


def _tests(family: Family) -> Iterable[str]:
    by_test: dict[tuple[str, str], list[str]] = {}
    for (short, attribute), test in PROVEN_BY.items():
        if short == family.short:
            by_test.setdefault((LAB, test), []).append(attribute)
    for (short, attribute, _), test in MODELLED_BY.items():
        if short == family.short:
            by_test.setdefault((MODELLED, test), []).append(attribute)
    for (mark, test), attributes in by_test.items():
        file, name = test.split("::")
        yield f"* {_MARKS[mark]} {', '.join(f'`{a}`' for a in attributes)}: {file}, `{name}`"


def page() -> str:
    lines = [INTRO, "## VF attributes", "", *table(), "", "## PF attributes", "", *pf_table(), ""]
    lines += [PF_NOTE, ""]
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
