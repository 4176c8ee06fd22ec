"""Ports and VLANs are kept as bits of 64-bit words: each word, and both ends of it, decides as the
model does."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping

import pytest
from tests.bpf.randoms import World
from tests.bpf.rig import Rig, port_number

from vfd.nic.soft import layout
from vfd.nic.soft.compiler import compile_policy
from vfd.policy.model import Model
from vfd.policy.requests import Grants
from vfd.policy.values import Mirror, NicPolicy, PfPolicy, VfPolicy

pytestmark = pytest.mark.root

VFS = (0, 62, 63, 64, 126, 127, 191, 254, 255)
"""Ports 1, 63 to 65, 127, 128, 192, 255 and 256: of every word, and at the ends of words."""
VIDS = (1, 63, 64, 65, 2047, 2048, 4031, 4032, 4094)
BROADCAST, GROUP, STRANGER = "ffffffffffff", "01005e010203", "0200000000fe"


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig(VFS) as rig:
        yield rig


def own(vfid: int) -> str:
    return f"02:00:00:00:01:{vfid:02x}"


class Nic:
    """The program and the model under one policy, in which every VF of ``VFS`` is like ``fields``
    says of its vfid."""

    def __init__(
        self,
        rig: Rig,
        fields: Callable[[int], dict[str, object]],
        grants: Mapping[int, Grants] = {},
    ) -> None:
        vfs = tuple(
            VfPolicy.model_validate(
                {"name": f"v{vfid}", "pciid": "soft0", "vfid": vfid, **fields(vfid)}
            )
            for vfid in VFS
        )
        nic = NicPolicy(pf=PfPolicy(id="soft0", vfs=256, enable_loopback=True), vfs=vfs)
        macs = {vfid: own(vfid) for vfid in VFS}
        world = World(nic, grants, macs, has_wire=True, wire_up=True)
        self._rig = rig
        self.model = Model(nic, grants, macs, True, has_wire=True)
        rig.enforce(compile_policy(nic, grants, world.wiring(rig.ifindex)))

    def ports(self, sender: int, dst: str, vid: int = 0, *, shaped: bool = False) -> list[int]:
        """Where a frame from ``sender`` comes out, which is where the model says, as it says; also
        where it doesn't go by the short way."""
        source = own(sender) if sender >= 0 else "02:00:00:00:00:99"
        tag = b"\x81\x00" + struct.pack("!H", vid) if vid else b""
        frame = bytes.fromhex(dst + source.replace(":", "")) + tag + b"\x88\xb5" + bytes(46)
        out = list(self.model.process(sender, frame).out)
        for path in (layout.PATH_ALL, layout.PATH_GENERAL):
            assert self._rig.through(sender, frame, shaped=shaped, path=path) == out
        return [port for port, _ in out]


TAKERS: dict[str, tuple[str, dict[str, object], Grants]] = {
    "broadcast": (BROADCAST, {}, Grants()),
    "multicast": (GROUP, {"allow_mcast": True}, Grants()),
    "a group that each joined": (
        GROUP,
        {"allow_mcast": False},
        Grants(groups=frozenset({"01:00:5e:01:02:03"})),
    ),
    "unknown unicast": (STRANGER, {"allow_un_ucast": True}, Grants()),
}


@pytest.mark.parametrize("mode", [{"allow_untagged": True}, {"vlans": (64,), "strip_ctag": True}])
@pytest.mark.parametrize("what", TAKERS)
def test_a_flood_reaches_every_other_port_once_and_its_sender_never(
    rig: Rig, what: str, mode: dict[str, object]
) -> None:
    dst, fields, grants = TAKERS[what]
    nic = Nic(rig, lambda _: {**mode, **fields}, dict.fromkeys(VFS, grants))
    for sender in VFS:
        others = sorted({-1, *VFS} - {sender})
        assert nic.ports(sender, dst) == others
        assert nic.ports(sender, dst, shaped=True) == others
    assert nic.ports(-1, dst, 64 if "vlans" in mode else 0) == list(VFS)


@pytest.mark.parametrize("what", TAKERS)
def test_a_flood_reaches_one_taker_wherever_it_is(rig: Rig, what: str) -> None:
    dst, fields, grants = TAKERS[what]
    refusing = {"allow_bcast": False, "allow_mcast": False, "allow_un_ucast": False}
    for taker in VFS:
        rules = {vfid: fields if vfid == taker else refusing for vfid in VFS}
        nic = Nic(rig, lambda vfid: {"allow_untagged": True, **rules[vfid]}, {taker: grants})  # noqa: B023
        sender = next(vfid for vfid in VFS if vfid != taker)
        assert nic.ports(sender, dst) == [-1, taker]
        assert nic.ports(taker, dst) == [-1]


def test_unicast_reaches_its_owner_wherever_it_is(rig: Rig) -> None:
    further = {vfid: f"02:00:00:00:02:{vfid:02x}" for vfid in VFS}
    nic = Nic(rig, lambda vfid: {"allow_untagged": True, "macs": (own(vfid), further[vfid])})
    for owner in VFS:
        for sender in (-1, *VFS):
            for mac in (own(owner), further[owner]):
                to = [] if sender == owner else [owner]
                assert nic.ports(sender, mac.replace(":", "")) == to


def test_unknown_unicast_is_a_storm_where_another_port_takes_it_wherever_that_is(rig: Rig) -> None:
    spoken_for = struct.pack("=QQ", 1 << 62, 0)
    for taker in VFS:
        Nic(
            rig,
            lambda vfid: {
                "allow_untagged": True,
                "storm_limit": 1,
                "allow_un_ucast": vfid == taker,  # noqa: B023
            },
        )
        for sender in VFS:
            rig.veb.maps["veb_buckets"].put(struct.pack("=I", port_number(sender)), spoken_for)
            frame = bytes.fromhex(STRANGER + own(sender).replace(":", "")) + b"\x88\xb5" + bytes(46)
            passed = [port for port, _ in rig.through(sender, frame)]
            assert passed == ([-1] if sender == taker else [])


def test_a_vf_is_in_its_vlans_and_in_no_other(rig: Rig) -> None:
    nic = Nic(rig, lambda vfid: {"vlans": (VIDS[VFS.index(vfid)],)})
    for n, sender in enumerate(VFS):
        for vid in (*VIDS, 4095):
            mine = vid == VIDS[n]
            assert nic.ports(sender, BROADCAST, vid) == ([-1] if mine else [])
            assert (sender in nic.ports(-1, BROADCAST, vid)) is mine


def test_a_mirror_of_some_vlans_copies_these_and_no_other(rig: Rig) -> None:
    for vid in VIDS:
        mirror = Mirror(target=255, vlans=(vid,))
        nic = Nic(
            rig,
            lambda vfid: (
                {"vlans": VIDS, "mirror": (mirror,) if vfid == 0 else ()}  # noqa: B023
                if vfid != 255
                else {"vlans": (5,)}
            ),
        )
        for sent in VIDS:
            copies = nic.ports(0, own(64).replace(":", ""), sent).count(255)
            assert copies == (sent == vid)
