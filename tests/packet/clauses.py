"""The contract cut into clauses, so that a case can cite what it proves.

The texts are those of docs/semantics.md, word for word, from "From the guest" to "Counters":
joined again they are those sections, which test_every_clause_is_covered holds.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clause:
    """One normative statement. ``elsewhere``: the test (file::function) that proves it where no
    frame can."""

    id: str
    text: str
    elsewhere: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    clauses: tuple[Clause, ...]


C = Clause

TX = Section(
    "From the guest: Tx, in this order",
    (
        C(
            "tx.1",
            "1. Link down (`off`, or `auto` with the wire down; a software NIC without an uplink"
            " has its wire up): drop.",
        ),
        C(
            "tx.2",
            "2. The source MAC is multicast or zero, or it is a MAC control frame (under any tags"
            " of the guest): drop, count `spoofed`.",
        ),
        C(
            "tx.3",
            "3. `mac_anti_spoof` and the source is none of the VF's MACs (default, listed,"
            " granted): drop, count `spoofed`.",
        ),
        C(
            "tx.4",
            "4. Tagging (below). A frame that it refuses: drop, count `spoofed`; an untagged frame"
            " refused only because `allow_untagged` is false: drop, count `dropped_untagged`.",
        ),
        C("tx.5", "5. Larger than the VF's MTU: drop, count `oversize`."),
        C("tx.6", "6. Rate, guarantee, traffic class, storm limit."),
        C("tx.7", "7. Tx mirror: a copy of the frame as it now is, with its tags."),
        C("tx.8", "8. Switch (below)."),
    ),
)

RX = Section(
    "To the guest: Rx, in this order",
    (
        C("rx.1", "1. Link down: drop."),
        C(
            "rx.2",
            "2. VLAN filter: the outer VID must be in `vlans`; untagged needs `allow_untagged`."
            " Drop, count `dropped_vlan`.",
        ),
        C("rx.3.own", "3. Class: a unicast MAC that the VF owns passes;"),
        C("rx.3.unknown", "other unicast needs `allow_un_ucast`;"),
        C("rx.3.bcast", "broadcast needs `allow_bcast`;"),
        C(
            "rx.3.mcast",
            "multicast needs `allow_mcast`, or a group the guest joined and was granted.",
        ),
        C("rx.4", "4. Rx mirror: a copy of the frame before stripping."),
        C("rx.5", "5. Strip (below), then Rx rate, then delivery."),
    ),
)

TAGGING = Section(
    "Tagging",
    (
        C(
            "tag.kind",
            "* In every mode a frame whose outer tag is not of the VF's kind is refused"
            " (Tx `spoofed`, Rx `dropped_vlan`), but for the guest's own C-tag under service"
            " access.",
        ),
        C(
            "tag.trunk.tx",
            "* **Trunk** (`strip_stag` and `strip_ctag` both false). The guest tags. With"
            " `vlan_anti_spoof` the outer VID must be in `vlans`; untagged needs"
            " `allow_untagged`.",
        ),
        C("tag.trunk.rx", "Rx frames keep their tags."),
        C(
            "tag.access.tx",
            "* **Access** (`strip_ctag`, one VID). The NIC inserts C-tag `vlans[0]` in every Tx"
            " frame; a guest frame that is already tagged (VID ≠ 0) is refused.",
        ),
        C("tag.access.rx", "On Rx the tag is removed."),
        C(
            "tag.service.tx",
            "* **Service access** (`strip_stag`, one VID). The NIC pushes the tag `vlans[0]`, with"
            " the PF's `tpid`, outside whatever the guest sent: an untagged frame leaves with one"
            " tag, a guest-tagged frame leaves as QinQ, the customer's tag untouched.",
        ),
        C(
            "tag.service.rx",
            "On Rx the outer tag is removed, so the guest sees its own tags again.",
        ),
        C("tag.service.88a8", "A guest frame whose outer TPID is 0x88a8 is refused."),
        C(
            "tag.insert.unchecked",
            "`vlan_anti_spoof` has nothing to check in either access mode: the guest can't name"
            " the VLAN.",
        ),
        C(
            "tag.several",
            "* **Strip with several VIDs** (either flag, two or more VIDs). Rx removes the outer"
            " tag. Tx inserts nothing: the guest names the VID, as in trunk.",
        ),
        C(
            "tag.pcp",
            "* PCP and DEI of a tag that is inserted come from the guest's priority tag if there"
            " was one, else they are the VF's `pcp` and 0.",
        ),
        C(
            "tag.veiled",
            "* A veiled tag is refused in trunk and access mode, both ways (Tx `spoofed`, Rx"
            " `dropped_vlan`).",
        ),
        C(
            "tag.veiled.service",
            "Under service access what is behind the NIC's own tag is the customer's.",
        ),
    ),
)

SWITCHING = Section(
    "Switching",
    (
        C("sw.static", "A NIC's VEB does not learn."),
        C(
            "sw.table",
            "Its table is what the control plane wrote: (MAC, VID) → VF for every MAC that a VF"
            " owns in every VLAN of the VF, and in no VLAN if it takes untagged frames.",
        ),
        C(
            "sw.known",
            "* Known unicast from a VF: to the owner when `enable_loopback`, else to the wire."
            " Never both.",
        ),
        C(
            "sw.unknown",
            "* Unknown unicast from a VF: to the wire, and with `enable_loopback` to VFs with"
            " `allow_un_ucast`.",
        ),
        C(
            "sw.bum",
            "* Broadcast and multicast from a VF: to the wire, and with `enable_loopback` to every"
            " other VF that passes its own Rx rules.",
        ),
        C(
            "sw.wire",
            "* From the wire: to the owner, or for BUM to every VF that passes its Rx rules. Never"
            " back to the wire.",
        ),
        C("sw.wire.control", "MAC control frames end at the wire's port."),
        C("sw.back", "* Never back to the port it came from."),
        C("sw.cross", "VLANs are never crossed."),
    ),
)

MIRRORING = Section(
    "Mirroring",
    (
        C("mirror.vfs", "Target and source are VFs of one PF;"),
        C(
            "mirror.self",
            "a VF is no mirror of itself;",
            elsewhere="tests/policy/test_rules.py::test_a_vf_is_no_mirror_of_itself",
        ),
        C("mirror.copies", "the target receives copies whatever its own filters say"),
        C(
            "mirror.shown",
            "and is shown as a mirror target.",
            elsewhere="tests/cli/test_daemon.py::test_a_mirror_target_is_shown_as_one",
        ),
        C(
            "mirror.live",
            "`mirror` can be set and cleared while traffic runs, without touching the VF's other"
            " settings.",
        ),
        C("mirror.slow", "A slow or down target never slows the source."),
    ),
)

RATES = Section(
    "Rates and traffic classes",
    (
        C(
            "rates.link",
            "* The link speed is the wire's; a software NIC takes it from its configuration.",
        ),
        C(
            "rates.sum",
            "* The sum of `min_rate` over a PF must not pass the link, nor any VF's shares in a"
            " class 100 %, unless `vf_oversubscription`; then all is scaled in proportion and the"
            " factor is shown.",
            elsewhere="tests/daemon/test_life_of_a_vf.py::"
            "test_what_is_promised_more_than_there_is_is_scaled_and_the_factors_are_shown",
        ),
        C(
            "rates.classes",
            "* 4 or 8 classes, `pri` is the class; `min_bw`, `max_bw` percent of the link; `lsp`"
            " strict over the whole link, `bsp` strict in its group; groups (`bw_grps`) lend"
            " unused bandwidth to each other. Tx class is the frame's PCP through the PF's map"
            " (two PCPs per class with 4 classes).",
        ),
        C(
            "rates.together",
            "* A guarantee (`min_rate`) and a class's `min_bw` hold together with classes as"
            " without; where a NIC can't keep both, the one that it can't keep is refused or"
            " warned of like any other attribute, and so is a strict class that may starve a"
            " guarantee.",
        ),
        C(
            "rates.shares",
            "VFs' shares of a class divide all that the class gets, what it borrows too, in their"
            " proportion.",
        ),
        C(
            "rates.spread",
            "* The spread between the largest and smallest share in a class is at most 10×.",
            elsewhere="tests/policy/test_rules.py::test_the_spread_of_a_class_is_at_most_ten",
        ),
    ),
)

REQUESTS = Section(
    "What a guest may ask for",
    (
        C(
            "ask.at-once",
            "Guests ask through the NIC's mailbox; the daemon grants or refuses by policy, at"
            " once, and logs both.",
        ),
        C(
            "ask.mac",
            "| default MAC | `vm_mac` unset or equal, unicast, not reserved, and no other VF on the"
            " PF owns it |",
        ),
        C(
            "ask.macs",
            "| further MAC | `guest_macs` allows it, unicast, not reserved, no other VF on the PF"
            " owns it, limits not reached |",
        ),
        C(
            "ask.vlan",
            "| VLAN filter | `guest_vlans`, and the VID is in `vlans` |",
            elsewhere="tests/policy/test_requests.py::"  # no bench here has guests that can ask
            "test_a_vlan_filter_is_granted_if_its_vid_is_in_vlans",
        ),
        C("ask.group", "| multicast group | `guest_groups`, and limits not reached |"),
        C("ask.mtu", "| MTU | not above the PF's `mtu` |"),
        C(
            "ask.promisc",
            "| promiscuous, all-multicast | `trust`, and then within `allow_un_ucast`,"
            " `allow_mcast` |",
        ),
        C(
            "ask.last",
            "Grants last until the VF is deleted or its guest is gone; then the VF gets a fresh"
            " random local MAC.",
        ),
        C(
            "ask.wish",
            "A refused request stays known as a *wish*, is shown with the VF, and is decided again,"
            " unasked, whenever the reason of its refusal may be gone (on any VF of the PF), until"
            " the guest gives it up.",
            elsewhere="tests/daemon/test_wishes.py::"
            "test_a_deleted_vfs_mac_goes_to_the_guest_that_was_refused_it",
        ),
    ),
)

COUNTERS = Section(
    "Counters, per VF and per PF",
    (
        C(
            "count.names",
            "rx and tx: packets, bytes, errors, dropped; and `spoofed`, `dropped_vlan`,"
            " `dropped_untagged`, `oversize`, `rate_dropped`, `storm_dropped`, `mirrored`.",
        ),
        C(
            "count.segments",
            "They count packets on the wire, not kernel buffers: a 64 KiB TSO buffer is its"
            " segments.",
        ),
        C(
            "count.restart",
            "They never go backwards while the daemon restarts.",
            elsewhere="tests/life/test_killed.py::"
            "test_killed_fifty_times_amid_requests_no_frame_is_lost_and_the_files_win",
        ),
        C("count.absent", "What a NIC can't count is shown as absent, not as 0."),
    ),
)

SECTIONS = (TX, RX, TAGGING, SWITCHING, MIRRORING, RATES, REQUESTS, COUNTERS)

BESIDES = Section(
    "The VF configuration",
    (
        C(
            "closed",
            "**A VF without a configuration is closed**: nothing passes either way, its link is"
            " down, its requests are refused, as far as the NIC can (what it can't is said in its"
            " capabilities).",
        ),
        C(
            "deleted",
            "Deleting a configuration closes the VF again and takes its MACs, groups and mirrors"
            " away; a guest that still holds it sees its link go down.",
        ),
        C("link_status.on", "`on`: up whatever the wire does;"),
        C("link_status.off", "`off`: down, nothing passes;"),
        C("link_status.auto", "`auto`: follows the wire"),
        C(
            "guest_groups.reach",
            "may it join multicast groups, which then reach it even with `allow_mcast` false",
        ),
        C("mirror.vlans", "with `vlans`, only frames in those VLANs"),
        C(
            "storm_limit",
            "`storm_limit` (BUM frames per second a guest may send)",
        ),
    ),
)
"""Clauses outside those sections that frames prove too."""

CLAUSES: dict[str, Clause] = {
    clause.id: clause for section in (*SECTIONS, BESIDES) for clause in section.clauses
}
