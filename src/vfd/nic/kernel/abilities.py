"""What a PF's surfaces can enforce, as found when they were last looked at: until then it holds,
and whoever asks causes no call into the system."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vfd.nic.kernel import capabilities, counters, switchdev
from vfd.nic.kernel.drivers import Driver
from vfd.nic.kernel.host_use import host_use
from vfd.nic.kernel.parts import assignments, merged
from vfd.nic.kernel.pf import PfSettings, disturbing
from vfd.nic.kernel.sriov import PciPf
from vfd.nic.kernel.surface import CounterSurface, Shown, Surface, assign
from vfd.nic.netlink import Netlink
from vfd.nic.protocol import Capabilities, Capability, NicError
from vfd.policy.values import MAX_GROUPS, MAX_VLANS, VfRules

Seen = tuple[list[Shown], VfRules | None]
"""What each surface shows of a VF, and the rules that it all is."""

_MOST_EXPRESSED = 1024


class Abilities:
    """Of one PF with the surfaces that it has now."""

    def __init__(
        self,
        netlink: Netlink,
        index: int,
        device: PciPf,
        driver: Driver,
        surfaces: Sequence[Surface],
        settings: PfSettings,
    ) -> None:
        self._netlink = netlink
        self._index = index
        self._device = device
        self._driver = driver
        self._surfaces = surfaces
        self._settings = settings
        self._counters: tuple[int, tuple[frozenset[str], str]] | None = None
        self.capabilities = self._found(device.num_vfs())
        self._start()

    def look(self, vfs: int, *, anew: bool = False) -> None:
        """Looks what there is now, with so many VFs. ``anew``: the PF's policy is another."""
        found = self._found(vfs)
        if anew or found != self.capabilities:
            self.capabilities = found
            self._start()

    def _start(self) -> None:
        self.assigned = assignments(self._surfaces)
        self._expressed: dict[VfRules | None, Seen] = {}
        """A repair compares all VFs with what is wanted of them; it must not take long."""

    def _found(self, vfs: int) -> Capabilities:
        for surface in self._surfaces:
            surface.look()
        pf = self._settings.capabilities()
        vf = capabilities.of_vfs(self._surfaces)
        use = host_use(self._netlink, self._index)
        counted, why = self._counted(vfs)
        more = (s.counter_names() for s in self._surfaces if isinstance(s, CounterSurface))
        return Capabilities(
            vf=vf,
            pf=pf,
            counters=counted.union(*more),
            uncounted=why,
            max_vfs=self._device.total_vfs(),
            max_vlans=switchdev.MAX_VLANS if vf["vlans"].by == switchdev.NAME else MAX_VLANS,
            max_macs=self._settings.max_macs,
            max_groups=MAX_GROUPS,
            closed=capabilities.of_closing(vf),
            beside=capabilities.of_frames(vf, self._driver),
            device=self._settings.device(),
            count_takes_all=True,
            more_with_vfs=bool(self._driver.vendors) and not vfs,
            disturbing=disturbing(pf, use),
            host_use=use,
        )

    def shortfalls(self, rules: VfRules) -> Mapping[str, Capability]:
        """See ``vfd.nic.protocol.Nic``."""
        return assign(rules, self._surfaces)[1]

    def express(self, rules: VfRules | None) -> Seen:
        """How the rules will be shown once they are in force."""
        found = self._expressed.get(rules)
        if found is None:
            assigned = self.assigned(rules)
            parts = [surface.express(assigned[surface.name]) for surface in self._surfaces]
            if len(self._expressed) > _MOST_EXPRESSED:
                self._expressed.clear()
            found = self._expressed[rules] = parts, merged(parts)
        return found

    def _counted(self, vfs: int) -> tuple[frozenset[str], str]:
        """The VFs' counters, or why there are none; asked once for each number of VFs."""
        if self._counters is None or self._counters[0] != vfs:
            try:
                found = counters.names(self._netlink, self._index, self._driver, vfs)
            except NicError as error:
                return frozenset(), str(error)
            self._counters = vfs, found
        return self._counters[1]
