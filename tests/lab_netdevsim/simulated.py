"""A netdevsim device, made for one test and taken away after it."""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from vfd.nic.kernel import open as open_kernel
from vfd.plan.changes import Change, PfChange, VfChange
from vfd.policy.resolve import resolve
from vfd.policy.values import NicPolicy, PfPolicy, VfPolicy, VfRules

_BUS = Path("/sys/bus/netdevsim")
_NUMBERS = itertools.count(10)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def mac(vfid: int) -> str:
    return f"02:ab:00:00:{vfid >> 8:02x}:{vfid & 255:02x}"


class Simulated:
    """The device, a context; ``nic`` is its KernelNic."""

    def __init__(self, vfs: int, *, switchdev: bool = False, **pf: Any) -> None:
        self.number = next(_NUMBERS)
        self.name = f"netdevsim{self.number}"
        self.vfs = vfs
        self.switchdev = switchdev
        self.pf = PfPolicy(id=self.name, backend="kernel", **pf)
        self.policy = NicPolicy(pf=self.pf)

    def __enter__(self) -> Simulated:
        if not _BUS.exists():
            run("modprobe", "netdevsim")
        if not Path("/sys/kernel/debug/netdevsim").exists():
            run("mount", "-t", "debugfs", "none", "/sys/kernel/debug")
        (_BUS / "new_device").write_text(f"{self.number} 1")
        device = _BUS / "devices" / self.name
        until(lambda: any((device / "net").iterdir()))
        (Path("/sys/kernel/debug/netdevsim") / self.name / "max_vfs").write_text("256")
        if self.switchdev:
            run("devlink", "dev", "eswitch", "set", f"netdevsim/{self.name}", "mode", "switchdev")
        (device / "sriov_numvfs").write_text(str(self.vfs))
        self.nic = open_kernel(self.pf)
        self.netdev = next(name for name, port in self._netdevs() if "vf" not in port)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if hasattr(self, "nic"):
            self.nic.close()
        (_BUS / "del_device").write_text(str(self.number))

    def vf(self, vfid: int, *vlans: int, **rules: Any) -> VfPolicy:
        rules.setdefault("vm_mac", mac(vfid))
        rules.setdefault("allow_untagged", not vlans)
        return VfPolicy.model_validate(
            {"name": f"vf{vfid}", "pciid": self.name, "vfid": vfid, "vlans": vlans, **rules}
        )

    def set(self, *vfs: VfPolicy, **pf: Any) -> NicPolicy:
        """Makes the NIC have these VFs' policies, and the others closed, by one apply."""
        wanted = NicPolicy(pf=self.pf.model_copy(update=pf), vfs=vfs)
        wanted = resolve(wanted, 10**10).nic
        observed = self.nic.observe()
        after = wanted.by_vfid()
        changes: list[Change] = []
        if wanted.pf != observed.pf:
            changes.append(PfChange(observed.pf, wanted.pf))
        changes += [
            VfChange(vfid, state.rules, after[vfid].rules if vfid in after else None)
            for vfid, state in sorted(observed.vfs.items())
        ]
        self.nic.apply(wanted, changes)
        self.policy = wanted
        return wanted

    def observed(self) -> dict[int, VfRules | None]:
        return {vfid: state.rules for vfid, state in self.nic.observe().vfs.items()}

    def expected(self) -> dict[int, VfRules | None]:
        """What the policy set last should show as."""
        after = self.policy.by_vfid()
        return {
            vfid: self.nic.expressible(vfid, after[vfid].rules if vfid in after else None)
            for vfid in range(self.vfs)
        }

    def representor(self, vfid: int) -> str:
        for name, port in self._netdevs():
            if port == f"pf0vf{vfid}":
                return name
        raise AssertionError(f"VF {vfid} has no representor")

    def _netdevs(self) -> Iterator[tuple[str, str]]:
        """With the names of their ports: a VF's number is in that of its representor."""
        for path in (_BUS / "devices" / self.name / "net").iterdir():
            try:
                yield path.name, (path / "phys_port_name").read_text().strip()
            except OSError:
                yield path.name, ""

    def rules_of(self, netdev: str) -> list[dict[str, Any]]:
        """As tc shows them."""
        shown = json.loads(run("tc", "-j", "-d", "filter", "show", "dev", netdev, "ingress"))
        return [rule for rule in shown if "handle" in rule.get("options", {})]

    def ip_shows(self, vfid: int) -> dict[str, Any]:
        shown = json.loads(run("ip", "-j", "-d", "link", "show", "dev", self.netdev))
        return dict(shown[0]["vfinfo_list"][vfid])


def until(true: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not so within {seconds} s"
        time.sleep(0.05)
