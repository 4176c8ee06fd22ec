"""What the kernel does with a frame under tc flower rules, in a page of Python.

Written from net/sched (cls_api.c tcf_classify, cls_flower.c, act_mirred.c, act_vlan.c,
act_gact.c), not from the compiler whose rules it runs. Policers are on or off as told.
"""

from __future__ import annotations

from collections.abc import Iterable

from vfd.nic.kernel.flower import (
    ANY,
    WIRE,
    Action,
    Drop,
    Goto,
    Match,
    Mirror,
    Note,
    Pass,
    Police,
    PoliceBytes,
    Pop,
    Push,
    Redirect,
    Retag,
    Rules,
)
from vfd.policy.addresses import mac_bytes
from vfd.policy.frames import Frame, Tag, parse

HOST = -2
"""Where frames of the wire go that no rule took: the netdev that the uplink is."""
Out = tuple[tuple[int, bytes], ...]
_Chains = dict[tuple[int, int], list[tuple[int, Match, tuple[Action, ...]]]]


class Machine:
    def __init__(self, rules: Rules, in_cpu: Rules | None = None) -> None:
        """``in_cpu``: rules that a frame meets from where it met none of ``rules`` in the NIC."""
        self._nic = _chains(rules)
        self._cpu = _chains(in_cpu or {})

    def process(
        self, port: int, raw: bytes, *, exhausted: bool = False, throttled: bool = False
    ) -> Out:
        """The frames that leave, by port. ``exhausted``, ``throttled``: policers of frames, of
        bytes, let nothing through."""
        frame, chain, out = parse(raw), 0, []
        chains = self._nic
        while True:
            hits = [entry for entry in chains.get((port, chain), ()) if _is(entry[1], frame)]
            if not hits and chains is self._nic and self._cpu:
                chains = self._cpu
                continue
            if not hits:
                out.append((HOST, bytes(frame)))
                break
            pref, _, actions = hits[0]
            assert [entry[0] for entry in hits].count(pref) == 1, f"two rules of pref {pref} match"
            chain = -1
            for action in actions:
                match action:
                    case Mirror(to):
                        out.append((to, bytes(frame)))
                    case Redirect(to):
                        out.append((to, bytes(frame)))
                        break
                    case Push(tpid, vid, pcp):
                        frame = frame.push(Tag(tpid, vid, pcp))
                    case Retag(tpid, vid):
                        outer = frame.outer
                        assert outer is not None
                        frame = frame.pop().push(Tag(tpid, vid, outer.pcp, outer.dei))
                    case Pop():
                        frame = frame.pop()
                    case Police():
                        if exhausted:
                            break
                    case PoliceBytes():
                        if throttled:
                            break
                    case Goto(to):
                        chain = to
                        break
                    case Drop():
                        break
                    case Pass():
                        out.append((HOST, bytes(frame)))
                        break
                    case Note():
                        pass
            else:
                raise AssertionError(f"rule {actions} has no end")
            if chain < 0:
                break
        return tuple(sorted(out))


def _chains(rules: Rules) -> _Chains:
    chains: _Chains = {}
    for place, actions in rules.items():
        assert len(actions) <= 32, f"{len(actions)} actions in one rule: the kernel takes 32"
        chain = chains.setdefault((place.port, place.chain), [])
        chain.append((place.pref, place.match, actions))
    for entries in chains.values():
        entries.sort(key=lambda entry: entry[0])
        protocols: dict[int, int] = {}
        for pref, match, _ in entries:
            assert protocols.setdefault(pref, match.protocol) == match.protocol, (
                f"pref {pref} has rules of two protocols: the kernel refuses that"
            )
    return chains


def to_others(out: Iterable[tuple[int, bytes]]) -> Out:
    """What leaves by VFs and the wire."""
    return tuple(sorted((port, raw) for port, raw in out if port != HOST))


def _is(match: Match, frame: Frame) -> bool:
    outer = frame.outer
    if match.protocol not in (ANY, frame.type if outer is None else outer.tpid):
        return False
    if match.vid is not None and (outer is None or outer.vid != match.vid):
        return False
    behind = [*(tag.tpid for tag in frame.tags[1:]), frame.type]
    if match.second is not None and (outer is None or behind[0] != match.second):
        return False
    if match.third is not None and (len(frame.tags) < 2 or behind[1] != match.third):
        return False
    return _masked(frame.dst, match.dst, match.dst_mask) and _masked(
        frame.src, match.src, match.src_mask
    )


def _masked(value: str, wanted: str, mask: str) -> bool:
    if not wanted:
        return True
    return all(
        v & m == w & m
        for v, w, m in zip(mac_bytes(value), mac_bytes(wanted), mac_bytes(mask), strict=True)
    )


__all__ = ["HOST", "WIRE", "Machine", "to_others"]
