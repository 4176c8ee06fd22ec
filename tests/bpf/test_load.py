"""Loading and adopting: what a daemon finds, and what it says when the kernel refuses."""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path

import pytest
from tests.bpf.randoms import World
from tests.bpf.rig import Rig, own_netns

from vfd.nic.protocol import COUNTERS
from vfd.nic.soft import layout, libbpf, vebmaps
from vfd.nic.soft.compiler import compile_policy
from vfd.nic.soft.libbpf import BpfError, BpfMap
from vfd.nic.soft.tables import decode
from vfd.nic.soft.vebmaps import LayoutError, Veb
from vfd.policy.values import NicPolicy, PfPolicy, VfPolicy

BPF_DIR = Path(vebmaps.__file__).parent / "bpf"

pytestmark = pytest.mark.root

REFUSED = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
SEC("tc") int veb(struct __sk_buff *skb)
{
    return *(int *)(long)skb->data;   /* without a look at data_end */
}
char _license[] SEC("license") = "Dual BSD/GPL";
"""


def compiled(tmp_path: Path, source: str) -> bytes:
    (tmp_path / "x.c").write_text(source)
    command = ["clang", "-O2", "-g", "-target", "bpf", "-mcpu=v3", f"-I{BPF_DIR}"]
    command += ["-I/usr/include/x86_64-linux-gnu", "-I/usr/include/aarch64-linux-gnu"]
    subprocess.run([*command, "-c", "x.c", "-o", "x.o"], cwd=tmp_path, check=True)
    return (tmp_path / "x.o").read_bytes()


def test_a_program_that_the_verifier_refuses_is_said_in_the_verifiers_words(
    tmp_path: Path,
) -> None:
    with pytest.raises(BpfError) as caught:
        libbpf.load(compiled(tmp_path, REFUSED))
    assert "refused the soft NIC's BPF program: Permission denied" in str(caught.value)
    assert "invalid access to packet" in str(caught.value)
    assert len(str(caught.value).splitlines()) < 30
    assert "invalid access to packet" in caught.value.log


def test_what_is_no_object_is_refused_before_the_kernel_sees_it() -> None:
    with pytest.raises(BpfError, match="not a BPF object"):
        libbpf.load(b"no ELF at all")


def test_a_missing_libbpf_is_said_with_the_package_that_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise OSError("libbpf.so.1: cannot open shared object file")

    libbpf.library.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(BpfError, match="apt install libbpf1"):
        Veb.load()
    monkeypatch.undo()
    libbpf.library.cache_clear()


def test_an_object_that_was_not_compiled_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.resources.files", lambda _: Path("/nonexistent"))
    with pytest.raises(Exception, match="make bpf"):
        Veb.load()


def test_a_write_of_the_wrong_size_is_refused() -> None:
    veb = Veb.load()
    with pytest.raises(BpfError, match="keys of 4 and values of 40"):
        veb.maps["veb_sets"].put(bytes(4), bytes(4))
    veb.close()


def test_the_header_and_its_python_side_are_the_same(tmp_path: Path) -> None:
    """Sizes and offsets of the structs, as the C compiler has them; numbers by name."""
    structs = {
        "veb_port": layout.VebPort,
        "veb_mirror": layout.VebMirror,
        "veb_mac": layout.VebMac,
        "veb_event": layout.VebEvent,
        "veb_meta": layout.VebMeta,
        "veb_options": layout.VebOptions,
    }
    header = (BPF_DIR / "veb.h").read_text() + (BPF_DIR / "maps.h").read_text()
    numbers = [
        name
        for name in re.findall(r"#define\s+(?:VEB_)?(\w+)\s", header)
        if isinstance(getattr(layout, name, None), int)
    ]
    assert len(numbers) > 45
    lines = [f'printf("%zu\\n", sizeof(struct {name}));' for name in structs]
    want = [ctypes.sizeof(struct) for struct in structs.values()]
    for name, struct in structs.items():
        for field, *_ in struct._fields_:
            lines.append(f'printf("%zu\\n", offsetof(struct {name}, {field}));')
            want.append(getattr(struct, field).offset)
    for name in numbers:
        full = name if re.search(rf"#define\s+{name}\s", header) else f"VEB_{name}"
        lines.append(f'printf("%zu\\n", (size_t)({full}));')
        want.append(getattr(layout, name))
    lines.append('printf("%zu\\n", sizeof(struct veb_counters) / 8);')
    want.append(layout.COUNTER_WORDS)
    for at, counter in enumerate(COUNTERS):
        lines.append(f'printf("%zu\\n", offsetof(struct veb_counters, {counter}) / 8);')
        want.append(at)
    sets = "".join(re.findall(r"#define\s+SET.*\n", (BPF_DIR / "maps.h").read_text()))
    source = (
        "#include <linux/types.h>\n#include <stdio.h>\n#include <stddef.h>\n"
        f'#include "veb.h"\n{sets}int main(void) {{ {"".join(lines)} return 0; }}\n'
    )
    (tmp_path / "x.c").write_text(source)
    subprocess.run(["clang", f"-I{BPF_DIR}", "x.c", "-o", "x"], cwd=tmp_path, check=True)
    printed = subprocess.run([tmp_path / "x"], capture_output=True, text=True, check=True)
    assert [int(line) for line in printed.stdout.split()] == want


def nic(count: int) -> NicPolicy:
    return NicPolicy(
        pf=PfPolicy(id="soft0", vfs=count, enable_loopback=True),
        vfs=tuple(
            VfPolicy(name=f"vf{n}", pciid="soft0", vfid=n, vlans=(100 + n,)) for n in range(count)
        ),
    )


def test_a_new_daemon_finds_policy_and_counters_behind_the_programs_id() -> None:
    with Rig(2) as rig:
        own_macs = {0: "02:00:00:00:00:01", 1: "02:00:00:00:00:02"}
        world = World(nic(2), {}, own_macs, True, True)
        rig.enforce(compile_policy(world.nic, {}, world.wiring(rig.ifindex)))
        rig.through(0, b"\x02" * 12 + b"\x08\x06" + bytes(46))
        heir = Veb.adopt(rig.veb.ingress.id, rig.veb.shaped.id)
        assert decode(heir.read()) == decode(rig.veb.read())
        assert heir.counters() == rig.veb.counters()
        assert heir.counters()[0]["spoofed"] == 1
        newer = Veb.load(reuse=heir)
        assert newer.ingress.id != heir.ingress.id
        assert decode(newer.read()) == decode(rig.veb.read())
        again = Veb.adopt(newer.ingress.id)
        assert again.counters() == rig.veb.counters()
        for veb in (heir, newer, again):
            veb.close()


def test_maps_of_another_layout_are_not_taken_for_ones_own() -> None:
    veb = Veb.load()
    meta = bytes(layout.VebMeta(layout=layout.LAYOUT + 1))
    veb.maps["veb_meta"].put(bytes(4), meta)
    with pytest.raises(LayoutError, match=f"layout {layout.LAYOUT + 1}"):
        Veb.adopt(veb.ingress.id)
    veb.close()


def test_maps_live_as_long_as_the_program_and_no_longer() -> None:
    veb = Veb.load()
    ids = {name: each.id for name, each in veb.maps.items()}
    for each in veb.maps.values():
        each.close()
    found = veb.ingress.maps()
    assert {name: found[name].id for name in ids} == ids
    for each in found.values():
        each.close()
    veb.ingress.close()
    veb.shaped.close()


def test_a_write_that_fails_midway_leaves_the_policy_that_was_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Rig(4) as rig:
        macs = {n: f"02:00:00:00:01:{n:02x}" for n in range(4)}
        small = World(nic(2), {}, macs, True, True)
        big = World(nic(4), {}, macs, True, True)
        rig.enforce(compile_policy(small.nic, {}, small.wiring(rig.ifindex)))
        before = rig.veb.read()
        put_all = BpfMap.put_all
        full = iter(range(100))

        def fails_once(self: BpfMap, items: object) -> None:
            if self.name == "veb_macs" and next(full) == 1:
                raise BpfError("writing map veb_macs: Argument list too long", 7)
            put_all(self, items)  # type: ignore[arg-type]

        monkeypatch.setattr(BpfMap, "put_all", fails_once)
        with pytest.raises(Exception, match="the policy is as it was"):
            rig.enforce(compile_policy(big.nic, {}, big.wiring(rig.ifindex)))
        after = rig.veb.read()
        assert decode(after) == decode(before)
        assert (after.macs, after.members, after.sets) == (
            before.macs,
            before.members,
            before.sets,
        )


def test_a_rig_leaves_no_namespace_behind() -> None:
    before = Path("/proc/self/ns/net").readlink()
    with own_netns():
        assert Path("/proc/self/ns/net").readlink() != before
    assert Path("/proc/self/ns/net").readlink() == before
