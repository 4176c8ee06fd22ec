"""The guest ends of a soft NIC's VFs: they wear the MACs and MTUs in force, as far as they can be
reached, and what they show that isn't in force is a request."""

from __future__ import annotations

import logging
from dataclasses import replace

from vfd.nic.netlink import Message
from vfd.nic.soft import rtnl
from vfd.nic.soft.enforce import Enforcement
from vfd.nic.soft.guests import Guests, Place
from vfd.nic.soft.homes import Homes
from vfd.nic.soft.state import State
from vfd.nic.soft.switch import Switch
from vfd.nic.soft.watch import Watch
from vfd.policy.requests import Grants

log = logging.getLogger("vfd.soft")


class GuestEnds:
    """Of one NIC. Its namespace is entered."""

    def __init__(
        self, switch: Switch, guests: Guests, homes: Homes, watch: Watch, works: Enforcement
    ) -> None:
        self._switch = switch
        self._guests = guests
        self._homes = homes
        self._watch = watch
        self._works = works
        self._root_nsid = switch.root_nsid()

    def follow(self, state: State, vfid: int, place: Place) -> None:
        """The VF's guest end is there, and wears what is in force."""
        grants = state.grants.get(vfid, Grants())
        if self._switch.tap:  # no listing shows its further MACs, and so none shows them gone
            grants = replace(grants, macs=frozenset())
        mac, mtu = state.mac(vfid) or "", state.mtu(vfid)
        self._guests.add(vfid, place, mac=mac, mtu=mtu, grants=grants)

    def welcome_home(self, state: State, vfid: int, index: int) -> None:
        """A VF that came back is as a VF without a guest: down, with its own MAC and name."""
        name = self._switch.guest_name(vfid)
        mac, mtu = state.mac(vfid), state.mtu(vfid)
        home = [
            rtnl.set_link(index, what=f"dressing VF {vfid}", up=False, mac=mac, mtu=mtu),
            rtnl.set_link(index, what=f"renaming {name}", name=name),
        ]
        self._switch.root_netlink.send_all(home)

    def dress(self, before: State, now: State) -> None:
        """Gives guest ends the MACs and MTUs that changed, and asks guests of VFs that open what
        they want. Raises NicError and OSError."""
        home: list[Message] = []
        for vfid in sorted(now.differing(before) & self._switch.ports.keys()):
            if self._switch.tap:
                self._watch.forget(vfid)
            opened = vfid in now.vfs and vfid not in before.vfs
            changed = now.mac(vfid) != before.mac(vfid) or now.mtu(vfid) != before.mtu(vfid)
            if opened or changed:
                home += self._dress_one(now, vfid, opened)
        if home:
            self._switch.root_netlink.send_all(home)
            self._works.adapt(now)

    def _dress_one(self, state: State, vfid: int, opened: bool) -> list[Message]:
        """Messages for the daemon's namespace; what is elsewhere is done at once."""
        mac, mtu = state.mac(vfid), state.mtu(vfid)
        place = self._guests.place(vfid)
        what = f"dressing VF {vfid}"
        if self._switch.tap:
            host = self._switch.ports[vfid].host
            return [rtnl.set_link(host, what=what, mac=mac)]
        if place is None:
            return []
        nsid, index = place
        worn = self._guests.mac(vfid), self._guests.mtu(vfid)
        if nsid == self._root_nsid:
            if opened:
                self.follow(state, vfid, place)
            self._guests.expect(vfid, mac=mac, mtu=mtu)
            if opened:
                self._guests.listen([vfid])
                self._watch.look_soon()
            if worn == (mac, mtu):
                return []
            return [rtnl.set_link(index, what=what, mac=mac, mtu=mtu)]
        vf = state.vfs.get(vfid)
        if vf is not None and vf.vm_mac is not None:
            self._guests.expect(vfid, mac=vf.vm_mac)
            if why := self._homes.set_mac(nsid, index, vf.vm_mac):
                # what it wears is shown as its wish, and what it sends with that is spoofed
                told = "VF %d of %s: its guest was not given the forced MAC %s: %s"
                log.warning(told, vfid, self._switch.id, vf.vm_mac, why)
        if opened or (vf is not None and vf.vm_mac is None and worn[0] != mac):
            # also where a MAC is no longer forced: what the guest's interface shows is its wish
            self.follow(state, vfid, place)
            self._watch.sync(vfid, opened=opened)
        return []
