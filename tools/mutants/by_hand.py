"""Faults that somebody thought of, beside those that are drawn."""

from __future__ import annotations

from tools.mutants.mutant import ByHand

_BPF = "src/vfd/nic/soft/bpf/"
_SOFT = "src/vfd/nic/soft/"
_KERNEL = "src/vfd/nic/kernel/"
_DAEMON = "src/vfd/daemon/"
_CONFIG = "src/vfd/config/"
_POLICY = "src/vfd/policy/"

_WORDS = """\tfor (int w = 0; w < VEB_WORDS; w++)
\t\tany |= bits[w]"""
_ROUND = """\tfor (int w = 0; w < VEB_WORDS; w++) {
\t\tflood.bits = bits[w];
\t\tflood.word = w;
"""

BY_HAND = (
    ByHand(
        "floods serve only ports 0 to 63",
        "bpf",
        _BPF + "rx.h",
        _WORDS,
        _WORDS.replace("any |= bits[w]", "any |= bits[w] = w ? 0"),
    ),
    ByHand(
        "a flood excludes its sender in the first word only",
        "bpf",
        _BPF + "rx.h",
        "word == f->from >> 6 ?",
        "!word && !(f->from >> 6) ?",
    ),
    ByHand(
        "a flood excludes port 0 for port 64",
        "bpf",
        _BPF + "rx.h",
        "word == f->from >> 6 ?",
        "word == 0 ?",
    ),
    ByHand(
        "floods that strip a tag serve only ports 0 to 63",
        "bpf",
        _BPF + "rx.h",
        "strip |= bits[w] = flood.strip;",
        "strip |= bits[w] = w ? 0 : flood.strip;",
    ),
    ByHand(
        "a flood takes the wrong port of a word",
        "bpf",
        _BPF + "rx.h",
        "flood->word * 64 + lowest_bit",
        "flood->word * 63 + lowest_bit",
    ),
    ByHand(
        "a segmentation buffer costs one frame of the storm limit",
        "bpf",
        _BPF + "veb.bpf.c",
        "vf->storm_ns * f->packets, vf->storm_depth_ns",
        "vf->storm_ns, vf->storm_depth_ns",
    ),
    ByHand(
        "guests' events drain the storm's bucket",
        "bpf",
        _BPF + "events.h",
        "take(&b->events, EVENT_NS",
        "take(&b->storm, EVENT_NS",
    ),
    ByHand(
        "the class of a priority-tagged access frame is the inserted tag's",
        "bpf",
        _BPF + "veb.bpf.c",
        "return is_priority(f) ? f->tci & 0xf000 : vf->flags",
        "return 0 ? f->tci & 0xf000 : vf->flags",
    ),
    ByHand(
        "a storm limit is half of what was asked",
        "soft",
        _SOFT + "tables.py",
        "port.storm_ns = 10**9 // vf.storm_limit",
        "port.storm_ns = 2 * 10**9 // vf.storm_limit",
    ),
    ByHand(
        "a storm limit lets three times as much pass",
        "soft",
        _SOFT + "tables.py",
        "port.storm_ns = 10**9 // vf.storm_limit",
        "port.storm_ns = 10**9 // vf.storm_limit // 3",
    ),
    ByHand(
        "max_rx_rate is enforced 10 % low",
        "soft",
        _SOFT + "enforce.py",
        "rate=bps,\n                    burst=size",
        "rate=bps * 9 // 10,\n                    burst=size",
    ),
    ByHand(
        "max_rx_rate isn't lifted",
        "soft",
        _SOFT + "enforce.py",
        'messages.append(rtnl.del_root_qdisc(port.host, f"lifting VF {vfid}\'s Rx limit"))',
        "pass",
    ),
    ByHand(
        "a rate is enforced 25 % high",
        "soft",
        _SOFT + "shaper.py",
        "ceil=stepped(vf.rate.on(link_bps)) or 2 * link_bps",
        "ceil=stepped(vf.rate.on(link_bps) * 5 // 4) or 2 * link_bps",
    ),
    ByHand(
        "a rate is enforced 35 % low",
        "soft",
        _SOFT + "shaper.py",
        "ceil=stepped(vf.rate.on(link_bps)) or 2 * link_bps",
        "ceil=stepped(vf.rate.on(link_bps) * 65 // 100) or 2 * link_bps",
    ),
    ByHand(
        "what is left is shared evenly, not by the shares",
        "soft",
        _SOFT + "shaper.py",
        "weights = {vfid: bps or left // without or 1 for",
        "weights = {vfid: 1 for",
    ),
    ByHand(
        "shares of a class count half as much",
        "soft",
        _SOFT + "shaper.py",
        "found[queue.priority][vf.vfid] = queue.share",
        "found[queue.priority][vf.vfid] = queue.share**0.5",
    ),
    ByHand(
        "what a guest sent that is gone is granted to the next one",
        "soft",
        _SOFT + "watch.py",
        "if vfid in gone or found is None",
        "if found is None",
    ),
    ByHand(
        "a request that stands before the news that its guest is gone is kept",
        "soft",
        _SOFT + "watch.py",
        "if event.request is None or event.vfid not in gone:",
        "if True:",
    ),
    ByHand(
        "what a dying guest was granted goes to the next one",
        "soft",
        _SOFT + "nic.py",
        "            self._take_back([vfid])\n            self._taken_back[vfid] += 1",
        "            self._taken_back[vfid] += 1",
    ),
    ByHand(
        "a tap's groups are kept when its guest goes",
        "soft",
        _SOFT + "nic.py",
        "self._guests.hold(vfid, after is not None)",
        "self._guests.hold(vfid, True)",
    ),
    ByHand(
        "revoke doesn't try again",
        "soft",
        _SOFT + "nic.py",
        "elif vfid in self._switch.ports:\n            self._take_back([vfid])",
        "elif vfid in self._switch.ports:\n            pass",
    ),
    ByHand(
        "a change that isn't read back is not undone",
        "daemon",
        _DAEMON + "managed.py",
        "            nic.apply(before.desired, back)\n",
        "",
    ),
    ByHand(
        "an undone change is not looked at",
        "daemon",
        _DAEMON + "managed.py",
        "            if left:\n                raise NicError(steps.differences(left))\n",
        "",
    ),
    ByHand(
        "a refused rtnetlink message isn't undone for the VFs before it",
        "kernel",
        _KERNEL + "rtnl.py",
        "if failed := self._put_back(before, after):",
        "if failed := []:",
    ),
    ByHand(
        "trust is not read back",
        "kernel",
        _KERNEL + "rtnl.py",
        'shown["trust"] = settings.trust',
        "pass",
    ),
    ByHand(
        "a count of VFs is not changed by way of 0",
        "kernel",
        _KERNEL + "sriov.py",
        "            self._write_count(0, seconds)\n",
        "            pass\n",
    ),
    ByHand(
        "VEB and VEPA are swapped",
        "kernel",
        _KERNEL + "legacy.py",
        "VEB, VEPA = 0, 1",
        "VEPA, VEB = 0, 1",
    ),
    ByHand(
        "a MAC in macs of one VF and vm_mac of another is good",
        "policy",
        _POLICY + "rules.py",
        'yield f"macs[{number}]", mac\n',
        'yield f"macs[{number}]", mac + " "\n',
    ),
    ByHand(
        "classes of 26 + 25 + 25 + 25 % are good",
        "policy",
        _POLICY + "rules.py",
        '    if total > 100:\n        rule = f"min_bw of all',
        '    if total > 101:\n        rule = f"min_bw of all',
    ),
    ByHand(
        "a key given twice beside a last comma is not seen",
        "config",
        _CONFIG + "json_text.py",
        "data, warnings = _without_last_commas(decoded, file, repeated)",
        "data, warnings = _without_last_commas(decoded, file, [])",
    ),
    ByHand(
        "a VF's file is not synced",
        "config",
        _CONFIG + "store.py",
        "            os.fsync(fd)\n    except OSError:",
        "    except OSError:",
    ),
    ByHand(
        "the folder of a VF's file is not synced",
        "config",
        _CONFIG + "store.py",
        "    try:\n        os.fsync(folder)\n",
        "    try:\n        pass\n",
    ),
    ByHand(
        "a new folder is not synced",
        "config",
        _CONFIG + "beneath.py",
        "                    os.fsync(folder)\n",
        "",
    ),
    ByHand(
        "a callback's owner keeps the daemon's groups",
        "daemon",
        _DAEMON + "callbacks.py",
        "extra_groups=account.groups,",
        "extra_groups=None,",
    ),
    ByHand(
        "the journal's numbers begin at 0",
        "daemon",
        _DAEMON + "journal.py",
        "self._seq = time.time_ns() // 1000",
        "self._seq = 0",
    ),
    ByHand(
        "check --json is without its warnings",
        "cli",
        "src/vfd/cli/checking.py",
        '"warnings": [asdict(warning) for warning in self.warnings],',
        '"warnings": [],',
    ),
)
