"""Whose a VF's grants are, noted where it dies with the VF's netdevs: as the host end's alias.

A daemon that starts finds grants and a guest, and compares: was it this guest that has them?
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable

from vfd.nic.netlink import Netlink
from vfd.nic.soft import rtnl
from vfd.nic.soft.guests import Guests, Place
from vfd.nic.soft.switch import Switch

HERE = "vfd: granted here"
"""To whom has the VF in the daemon's own namespace."""
Reach = Callable[[int | None], contextlib.AbstractContextManager[Netlink | None]]


class Marks:
    """Of one NIC's VFs. Its netdevs have been looked at."""

    def __init__(self, switch: Switch, guests: Guests, reach: Reach, root: int | None) -> None:
        self._switch = switch
        self._guests = guests
        self._reach = reach
        self._root = root
        hosts = {port.host: vfid for vfid, port in switch.ports.items()}
        self._noted = {
            hosts[link.index]: link.alias
            for link in rtnl.links(switch.netlink)
            if link.index in hosts and link.alias
        }

    def noted(self, vfid: int) -> str:
        return self._noted.get(vfid, "")

    def note(self, vfids: Iterable[int]) -> None:
        """These VFs' guests are about to be granted something."""
        for vfid in vfids:
            now = self._now(vfid)
            port = self._switch.ports.get(vfid)
            if port is not None and now and now != self.noted(vfid):
                what = f"noting whose VF {vfid} is"
                self._switch.netlink.send_all([rtnl.set_link(port.host, what=what, alias=now)])
                self._noted[vfid] = now

    def forget(self, vfid: int) -> None:
        """Its netdevs are gone, and the note with them."""
        self._noted.pop(vfid, None)

    def is_anothers(self, vfid: int) -> bool:
        """Whether what the VF has was certainly granted to another guest than it has now."""
        noted, now = self.noted(vfid), self._now(vfid)
        return bool(noted.startswith("vfd:") and now and noted != now)

    def _now(self, vfid: int) -> str:
        """Who has the VF; '' where nobody can say."""
        port, place = self._switch.ports.get(vfid), self._guests.place(vfid)
        if port is None or place is None:
            return ""
        if self._switch.tap:  # whoever takes a tap anew ended the former one's carrier
            before = port.losses - (port.held and not port.carrier)
            return f"vfd: granted after {before} losses of carrier"
        return HERE if place[0] == self._root else self._cookie(place)

    def _cookie(self, place: Place) -> str:
        """Of the namespace that the guest is in: no other one has or will ever have it."""
        with contextlib.suppress(OSError), self._reach(place[0]) as there:
            if there is not None:
                return f"vfd: granted in namespace {there.namespace_cookie()}"
        return ""
