"""NICs and frames to put to the reference model, in few words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vfd.policy.frames import Frame, Tag, parse
from vfd.policy.model import Model, Verdict
from vfd.policy.requests import Grants
from vfd.policy.values import C_TAG, S_TAG, NicPolicy, PfPolicy, VfPolicy

ALL = "ff:ff:ff:ff:ff:ff"
GROUP = "01:00:5e:00:00:fb"
STRANGER = "02:ff:ff:00:00:01"
"""A MAC that no VF owns."""
ROUTER = "02:ff:ff:00:00:fe"
"""Another one, on the wire."""
IP = b"\x08\x00" + bytes(46)


def mac(vfid: int) -> str:
    """A VF's own MAC."""
    return f"02:00:00:00:00:{vfid:02x}"


OWN = {vfid: mac(vfid) for vfid in range(8)}


def c(vid: int, pcp: int = 0, dei: bool = False) -> Tag:
    return Tag(C_TAG, vid, pcp, dei)


def s(vid: int, pcp: int = 0, dei: bool = False) -> Tag:
    return Tag(S_TAG, vid, pcp, dei)


def vf(vfid: int, *vlans: int, **rules: Any) -> VfPolicy:
    """A VF's policy; without VLANs it takes untagged frames."""
    rules.setdefault("allow_untagged", not vlans)
    return VfPolicy(name=f"vf{vfid}", pciid="soft0", vfid=vfid, vlans=vlans, **rules)


def access(vfid: int, vid: int = 100, **rules: Any) -> VfPolicy:
    return vf(vfid, vid, strip_ctag=True, **rules)


def service(vfid: int, vid: int = 100, **rules: Any) -> VfPolicy:
    return vf(vfid, vid, strip_stag=True, **rules)


def nic(
    *vfs: VfPolicy,
    grants: Mapping[int, Grants] | None = None,
    wire_up: bool = True,
    has_wire: bool = True,
    **pf: Any,
) -> Model:
    """A model with loopback on and service tags of TPID 0x88a8, if not said otherwise."""
    settings: dict[str, Any] = {"enable_loopback": True, "tpid": S_TAG, "mtu": 9000} | pf
    policy = NicPolicy(pf=PfPolicy(id="soft0", **settings), vfs=vfs)
    return Model(policy, grants, OWN, wire_up, has_wire=has_wire)


def frame(dst: int | str, *tags: Tag, src: int | str = 0, rest: bytes = IP) -> Frame:
    """A frame; a VF's number stands for its MAC."""
    return Frame(_mac(dst), _mac(src), tags, rest)


def _mac(station: int | str) -> str:
    return mac(station) if isinstance(station, int) else station


def send(model: Model, port: int, sent: Frame, **how: Any) -> Verdict:
    return model.process(port, bytes(sent), **how)


def reaches(model: Model, port: int, sent: Frame) -> set[int]:
    """The ports that get it, copies not counted."""
    return {to for to, _ in send(model, port, sent).switched}


def tags_at(verdict: Verdict, port: int) -> tuple[Tag, ...]:
    """The tags of the one frame that the port was switched."""
    (raw,) = [raw for to, raw in verdict.switched if to == port]
    return parse(raw).tags


def reasons(verdict: Verdict) -> dict[tuple[int, str], int]:
    """The counters that moved, but those of what went well."""
    well = ("packets", "bytes")
    return {key: by for key, by in verdict.counters.items() if not key[1].endswith(well)}


def dropped(vfid: int, reason: str | None = None, way: str = "tx", by: int = 1) -> Any:
    """The counters of a frame that a VF dropped."""
    moves = {(vfid, f"{way}_dropped"): by}
    return moves | ({(vfid, reason): by} if reason else {})
