"""The VNF of two VFs on two SR-IOV NICs, bonded in the guest: a cable is cut, traffic goes on.

Like tests/lab_soft/test_bond.py, on emulated 82576s under the kernel's igb and igbvf. Here the bond
asks its neighbour by ARP: in the emulation a VF's link stays up when the cable is cut.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator

import pytest
from lab.qmp import Qmp
from tests.lab_soft.bonds import active, by_arp, make_bond
from tests.lab_soft.guests import address, batch, pings, until
from tests.soft.world import ip

from vfd.nic import kernel
from vfd.nic.kernel.sriov import find_pf
from vfd.nic.soft import namespace
from vfd.plan.plan import Observed, plan
from vfd.policy.resolve import resolve
from vfd.policy.values import NicPolicy, PfPolicy, VfPolicy

ADDRESSES = ("0000:01:00.0", "0000:02:00.0")
WIRES = ("wire0", "wire1")


@pytest.fixture
def vnf() -> Iterator[tuple[str, tuple[str, ...]]]:
    """A guest with one VF of each NIC, and a switch with an address at both NICs' cables; the
    guest's namespace and its netdevs."""
    with contextlib.ExitStack() as stack:
        switch, guest = (f"{kind}{secrets.token_hex(2)}" for kind in ("switch", "guest"))
        members = []
        for number, pci in enumerate(ADDRESSES):
            policy = PfPolicy(id=pci, backend="kernel", vfs=1)
            nic = stack.enter_context(contextlib.closing(kernel.open(policy)))
            vf = VfPolicy(
                name=f"vnf{number}",
                pciid=pci,
                vfid=0,
                vlans=(100,),
                strip_ctag=True,
                vm_mac=f"02:00:00:00:03:0{number}",
            )
            desired = resolve(NicPolicy(pf=policy, vfs=(vf,)), 10**9).nic
            seen = nic.observe()
            observed = Observed(seen.pf, {n: state.rules for n, state in seen.vfs.items()})
            nic.apply(desired, plan(desired, observed, nic.expressible, pf_fields={"vfs"}))
            device = find_pf(pci)
            stack.callback(device.set_num_vfs, 0)
            members.append(device.vfs()[0].netdev)
        for name in (switch, guest):
            namespace.create(name)
            stack.callback(namespace.remove, name)
        batch(switch, "link add br0 type bridge forward_delay 0", "link set br0 up")
        for wire in WIRES:
            ip("link", "set", wire, "netns", switch)
            batch(switch, f"link set {wire} up", f"link set {wire} master br0")
        batch(switch, "link add link br0 name br0.100 type vlan id 100", "link set br0.100 up")
        address(switch, "10.9.0.1", "br0.100")
        for member in members:
            ip("link", "set", member, "netns", guest)
        yield guest, tuple(members)


def test_a_bonded_guest_of_two_igb_nics_goes_on_when_one_cable_is_cut(
    vnf: tuple[str, tuple[str, ...]],
) -> None:
    guest, members = vnf
    monitor = by_arp("10.9.0.1")
    make_bond(guest, members, "10.9.0.2/24", fail_over_mac="active", monitor=monitor)
    with Qmp() as qmp:
        until("traffic", lambda: pings(guest, "10.9.0.1"), seconds=60)
        for _ in range(2):
            cut = members.index(active(guest))
            other = members[1 - cut]
            qmp.set_link(f"igb{cut}", up=False)
            until(f"the bond on {other}", lambda m=other: active(guest) == m, seconds=60)  # type: ignore[misc]
            until("traffic again", lambda: pings(guest, "10.9.0.1"), seconds=60)
            qmp.set_link(f"igb{cut}", up=True)
            until("the cable", lambda pf=f"pf{cut}": pf_has_link(pf), seconds=60)  # type: ignore[misc]


def pf_has_link(pf: str) -> bool:
    return "LOWER_UP" in ip("-br", "link", "show", "dev", pf)
