"""What was asked for is in force, wholly or not at all, and survives any end of the daemon."""

from __future__ import annotations

import http.client
import json
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vfd.daemon.request import Source
from vfd.daemon.service import Service
from vfd.daemon.zero import Zero
from vfd.nic.soft import namespace

from .harness import Vfd, wait_for
from .plain_nic import add, config

MAC = "02:00:00:00:00:2a"


def test_what_was_added_is_in_force_and_kept(vfd: Vfd) -> None:
    status, made = vfd.add("tenant/vm1", vfd.vf(0, strip_ctag=True))
    assert status == 201, made
    assert made["changes"][0]["kind"] == "open"
    assert json.loads((vfd.config_dir / "tenant/vm1.json").read_text())["vlans"] == [100]
    row = vfd.row(0)
    assert (row["name"], row["state"], row["extended"]["tagging"]) == ("tenant/vm1", "ok", "access")
    vfd.stop(signal.SIGKILL)
    vfd.start()
    assert vfd.row(0)["name"] == "tenant/vm1"
    assert vfd.get("/v1/vfs/tenant/vm1")["in_force"]["vlans"] == [100]


def test_a_vf_that_is_called_like_the_file_of_another_is_a_vf_of_its_own(service: Service) -> None:
    add(service, "x", 0)
    source = Source(name="x.json", config=config(service, 1, name="x.json"))
    assert service.plan_of(source, 0, 0)[0] == "add"
    service.add(source, 0, 0)
    assert service.plan_of(source, 0, 0)[0] == "none"
    assert {one.policy.name: one.file for _, one in service.in_force()} == {
        "x": "x.json",
        "x.json": "x.json.json",
    }
    made = service.delete("x.json")
    assert made
    assert made.vfid == 1
    assert [one.policy.name for _, one in service.in_force()] == ["x"]


def test_a_rate_between_two_that_the_nic_can_hold_is_the_lower_of_them(vfd: Vfd) -> None:
    """HTB and TBF count bytes per second."""
    asked = {"rate": "999999999bps", "min_rate": 0.01234567891, "max_rx_rate": "12345bps"}
    status, made = vfd.add("vm1", vfd.vf(0, **asked))
    assert status == 201, made
    assert vfd.add("vm2", vfd.vf(1, min_rate="7bps"))[0] == 201

    def told() -> list[Any]:
        in_force = vfd.get("/v1/vfs/vm1")["in_force"]
        return [in_force[field] for field in asked]

    rates = ["999999.992kbps", "123456.784kbps", "12.344kbps"]
    assert told() == rates
    vfd.stop(signal.SIGKILL)
    vfd.start()
    vfd.reload()
    assert told() == rates
    assert (vfd.row(0)["state"], vfd.events("drift")) == ("ok", [])
    status, made = vfd.ask("PUT", "/v1/vfs/vm1", {"config": vfd.vf(0, **asked)})
    assert (status, made["changes"]) == (200, [])


def test_a_file_that_is_there_is_added_by_its_name(vfd: Vfd) -> None:
    vfd.put_file("vm1", vfd.vf(1, vm_mac=MAC))
    status, made = vfd.ask("POST", "/v1/vfs", {"file": "vm1"})
    assert status == 201, made
    assert vfd.row(1)["mac"] == MAC
    assert vfd.ask("POST", "/v1/vfs", {"file": "vm1.json"})[0] == 409


def test_what_was_deleted_is_closed_and_stays_so(vfd: Vfd) -> None:
    vfd.add("vm1", vfd.vf(0))
    assert vfd.ask("DELETE", "/v1/vfs/vm1")[0] == 200
    assert vfd.row(0)["state"] == "closed"
    assert list(vfd.config_dir.iterdir()) == []
    vfd.stop(signal.SIGKILL)
    vfd.start()
    assert vfd.row(0)["state"] == "closed"
    assert vfd.ask("DELETE", "/v1/vfs/vm1")[0] == 404


def test_delete_keep_keeps_the_file_out_of_force(make_vfd: Callable[..., Vfd]) -> None:
    vfd = make_vfd(delete_keep=True)
    vfd.start()
    vfd.add("a/vm1", vfd.vf(0))
    vfd.ask("DELETE", "/v1/vfs/a/vm1")
    assert [p.name for p in (vfd.config_dir / "a").iterdir()] == ["vm1.json-"]
    vfd.stop()
    vfd.start()
    assert vfd.row(0)["state"] == "closed"
    assert vfd.add("a/vm1", vfd.vf(0))[0] == 201


def test_an_update_changes_only_what_differs(vfd: Vfd) -> None:
    vfd.add("vm1", vfd.vf(0, vm_mac=MAC))
    status, made = vfd.ask(
        "PUT",
        "/v1/vfs/vm1",
        {"config": vfd.vf(0, vlans=[100, 200], mac_anti_spoof=False, vm_mac=MAC)},
    )
    assert status == 200, made
    [change] = made["changes"]
    assert {f["field"] for f in change["fields"]} == {"vlans", "mac_anti_spoof"}
    assert any("mac_anti_spoof" in w for w in vfd.row(0)["warnings"])
    assert json.loads((vfd.config_dir / "vm1.json").read_text())["vlans"] == [100, 200]
    as_before = vfd.vf(0, vlans=[100, 200], vm_mac=MAC)
    assert vfd.ask("PUT", "/v1/vfs/vm1", {"config": as_before})[0] == 200
    assert vfd.row(0)["warnings"] == []


def test_the_first_of_macs_is_forced_and_shown_and_the_file_stays_as_written(vfd: Vfd) -> None:
    """AT&T's OpenStack writes the VF's MAC there, and there alone."""
    second, third = "fa:16:3e:00:00:02", "fa:16:3e:00:00:03"
    status, made = vfd.add("vm1", vfd.vf(0, macs=[MAC, second], link_status="off"))
    assert status == 201, made
    assert made["warnings"] == []
    assert vfd.row(0)["mac"] == MAC

    def shown() -> dict[str, Any]:
        answer = vfd.get("/v1/vfs/vm1")
        in_force = answer["in_force"]
        [differs] = [d for d in answer["differences"] if d["field"] in ("vm_mac", "macs")]
        assert (differs["field"], differs["in_force"]) == ("vm_mac", in_force["vm_mac"])
        assert "first of macs" in differs["why"]
        return {**answer["asked"], "in force": (in_force["vm_mac"], in_force["macs"])}

    before = shown()
    assert (before["macs"], before["in force"]) == ([MAC, second], (MAC, [second]))
    assert "vm_mac" not in before
    again = {"config": vfd.vf(0, macs=[second, third], link_status="off")}
    status, made = vfd.ask("PUT", "/v1/vfs/vm1", again)
    assert (status, {f["field"] for f in made["changes"][0]["fields"]}) == (200, {"vm_mac", "macs"})
    assert json.loads((vfd.config_dir / "vm1.json").read_text())["macs"] == [second, third]
    vfd.stop(signal.SIGKILL)
    vfd.start()
    after = shown()
    assert (after["macs"], after["in force"]) == ([second, third], (second, [third]))
    assert vfd.row(0)["mac"] == second
    [bad] = vfd.add("vm2", vfd.vf(1, vm_mac=third))[1]["problems"]
    assert (bad["field"], bad["other"]) == ("vm_mac", "vm1")


def test_a_plan_says_what_would_change_and_changes_nothing(vfd: Vfd) -> None:
    vfd.add("vm1", vfd.vf(0))
    before = vfd.get("/v1/vfs")
    body: dict[str, Any] = {"name": "vm1", "config": vfd.vf(0, vlans=[7])}
    status, plan = vfd.ask("POST", "/v1/plan", body)
    assert (status, plan["action"]) == (200, "update")
    assert plan["changes"][0]["fields"] == [{"field": "vlans", "before": [100], "after": [7]}]
    body["config"]["pciid"] = "elsewhere"
    assert vfd.ask("POST", "/v1/plan", body)[1]["problems"][0]["field"] == "pciid"
    assert vfd.get("/v1/vfs") == before


def test_a_refused_configuration_changes_nothing_and_every_rule_is_named(vfd: Vfd) -> None:
    vfd.add("vm1", vfd.vf(0, vm_mac=MAC))

    def broken(config: dict[str, Any]) -> set[tuple[str, str]]:
        status, error = vfd.add("vm2", config)
        assert (status, error["exit"]) == (422, 3)
        found = [(p["field"], p["other"]) for p in error["problems"]]
        assert len(found) == len(set(found)), "each is told once"
        return set(found)

    with_others = {("mirror.target", ""), ("vm_mac", "vm1")}
    bad = vfd.vf(1, vm_mac=MAC, mirror={"target": 9})
    assert broken(bad) == with_others
    # A rule between its own fields, a field that can't be read, an unknown field:
    assert broken({**bad, "vlans": []}) == with_others | {("vlans", "")}
    assert broken({**bad, "rate": "much"}) == with_others | {("rate", "")}
    assert broken({**bad, "vlan": 7}) == with_others | {("vlan", "")}
    own_and_vfid = {("vlans", ""), ("vfid", "vm1")}
    assert broken({**bad, "vfid": 0, "vlans": []}) == with_others | own_and_vfid
    # As the file spells it.
    assert broken(vfd.vf(1, mac=MAC)) == {("mac", "vm1")}
    # Whose PF or VF can't be read is held against nobody.
    assert broken({**bad, "vfid": "one"}) == {("vfid", "")}
    assert broken({**bad, "pciid": "elsewhere", "rate": 2}) == {("pciid", ""), ("rate", "")}
    assert [p.name for p in vfd.config_dir.iterdir()] == ["vm1.json"]
    assert vfd.row(1)["state"] == "closed"


def test_what_is_promised_more_than_there_is_is_scaled_and_the_factors_are_shown(
    make_vfd: Callable[..., Vfd],
) -> None:
    vfd = make_vfd()
    vfd.main["enable_qos"] = True
    vfd.main["pciids"][0] |= {"link_speed": "1Gbps", "vf_oversubscription": True}
    vfd.write_main()
    vfd.start()
    pf = vfd.get(f"/v1/pfs/{vfd.pf}")
    assert (pf["scale"], pf["class_scale"]) == (1, {})
    for vfid in (0, 1):
        queues = [{"priority": 2, "share": 80}]
        assert vfd.add(f"vm{vfid}", vfd.vf(vfid, min_rate="1Gbps", queues=queues))[0] == 201
    pf = vfd.get(f"/v1/pfs/{vfd.pf}")
    assert (pf["scale"], pf["class_scale"]) == (0.5, {"2": 0.625})
    [row] = [r for r in vfd.get("/v1/show?extended=true")["rows"] if r["kind"] == "pf"]
    assert (row["extended"]["scale"], row["extended"]["class_scale"]) == (0.5, {"2": 0.625})


def test_a_file_with_more_mirrors_than_the_nic_has_is_refused_and_holds_up_no_other(
    make_vfd: Callable[..., Vfd],
) -> None:
    vfd = make_vfd(vfs=12)
    many = vfd.vf(0, mirror=[{"target": target} for target in range(1, 10)])
    vfd.put_file("many", many)
    vfd.put_file("plain", vfd.vf(1))
    vfd.start()
    assert vfd.row(1)["state"] == "ok"
    assert vfd.row(0)["state"] == "closed"
    [bad] = vfd.get("/v1/health")["bad_files"]
    assert (bad["file"], bad["problems"][0]["field"]) == ("many.json", "mirror")
    status, answer = vfd.add("late", many)
    assert (status, answer["problems"][0]["field"]) == (422, "mirror"), answer
    assert "at most 8" in answer["problems"][0]["rule"]
    assert vfd.get(f"/v1/pfs/{vfd.pf}/caps")["max_mirrors"] == 8


def test_a_plan_and_an_update_tell_all_that_is_wrong_too(vfd: Vfd) -> None:
    vfd.add("vm1", vfd.vf(0, vm_mac=MAC))
    vfd.add("vm2", vfd.vf(1))
    bad = vfd.vf(1, vm_mac=MAC, vlans=[])
    _, plan = vfd.ask("POST", "/v1/plan", {"name": "vm2", "config": bad})
    _, update = vfd.ask("PUT", "/v1/vfs/vm2", {"config": bad})
    for answer in (plan, update):
        told = sorted((p["field"], p["other"]) for p in answer["problems"])
        assert told == [("vlans", ""), ("vm_mac", "vm1")]


def test_what_a_plan_promises_an_update_does(make_vfd: Callable[..., Vfd]) -> None:
    """A VF stays on its PF and in its file, and what would be refused is planned as refused."""
    vfd = make_vfd()
    second = {**vfd.main["pciids"][0], "id": f"{vfd.pf}b"}
    vfd.main["pciids"].append(second)
    vfd.write_main()
    vfd.start()
    vfd.add("vm1", vfd.vf(0))
    moved = {"pciid": second["id"], "vfid": 0, "vlans": [9], "name": "vm1"}
    vfd.put_file("other", {**vfd.vf(0, vlans=[9]), "name": "vm1"})
    for body in (
        {"name": "vm1", "config": moved},
        {"name": "file-of-mine", "config": moved},
        {"file": "other"},
    ):
        status, plan = vfd.ask("POST", "/v1/plan", body)
        assert (status, plan["action"], len(plan["problems"])) == (200, "none", 1), plan
        status, error = vfd.ask("PUT", "/v1/vfs/vm1", body)
        assert (status, error["problems"]) == (422, plan["problems"])
    [vm1] = vfd.get("/v1/vfs")["vfs"]
    assert (vm1["name"], vm1["pf"], vm1["in_force"]["vlans"]) == ("vm1", vfd.pf, [100])
    body = {"name": "file-of-mine", "config": {**vfd.vf(0, vlans=[9]), "name": "vm1"}}
    assert vfd.ask("POST", "/v1/plan", body)[1]["action"] == "update"
    assert vfd.ask("PUT", "/v1/vfs/vm1", body)[0] == 200


def test_a_mirror_is_set_and_ended_and_its_file_follows(vfd: Vfd) -> None:
    vfd.put_file("vm1", {**vfd.vf(0), "a comment": "the operator's own words"})
    vfd.ask("POST", "/v1/vfs", {"file": "vm1"})
    vfd.add("vm2", vfd.vf(1))
    path = f"/v1/pfs/{vfd.pf}/vfs/0/mirror"
    status, made = vfd.ask("PUT", path, {"direction": "in", "target": 1})
    assert status == 200, made
    assert [f["field"] for f in made["changes"][0]["fields"]] == ["mirror"]
    vfd.stop(signal.SIGKILL)
    vfd.start()
    rows = {row["vfid"]: row["extended"] for row in vfd.get("/v1/show?extended=true")["rows"]}
    assert rows[1]["mirror_target_of"] == [0]
    assert not rows[0]["mirror_target_of"]
    [mirror] = vfd.get("/v1/mirrors")["mirrors"]
    assert (mirror["name"], mirror["target_name"], mirror["direction"]) == ("vm1", "vm2", "in")
    text = json.loads((vfd.config_dir / "vm1.json").read_text())
    assert text["a comment"] == "the operator's own words"
    assert vfd.ask("PUT", path, {"direction": "off"})[0] == 200
    assert vfd.get("/v1/mirrors")["mirrors"] == []
    assert "mirror" not in json.loads((vfd.config_dir / "vm1.json").read_text())
    assert vfd.ask("PUT", f"/v1/pfs/{vfd.pf}/vfs/3/mirror", {"direction": "off"})[0] == 404


def test_the_number_of_vfs_is_kept_and_parked_vfs_come_back(vfd: Vfd) -> None:
    vfd.add("vm3", vfd.vf(3))
    status, error = vfd.ask("PATCH", f"/v1/pfs/{vfd.pf}", {"vfs": 2})
    assert status == 422
    assert error["problems"][0]["other"] == "vm3"
    assert vfd.ask("PATCH", f"/v1/pfs/{vfd.pf}", {"vfs": 2, "force": True})[0] == 200
    vfd.stop(signal.SIGKILL)
    vfd.start()
    assert vfd.get(f"/v1/pfs/{vfd.pf}")["vfs"] == 2
    [bad] = vfd.get("/v1/health")["bad_files"]
    assert (bad["file"], bad["vfid"]) == ("vm3.json", 3)
    assert vfd.ask("PATCH", f"/v1/pfs/{vfd.pf}", {"vfs": 5})[0] == 200
    assert vfd.row(3)["name"] == "vm3"
    assert vfd.row(4)["state"] == "closed"
    assert vfd.get("/v1/health")["status"] == "ok"


def test_an_update_that_says_so_may_move_a_vf_and_then_the_old_one_closes(vfd: Vfd) -> None:
    vfd.add("vm1", vfd.vf(0))
    assert vfd.ask("PUT", "/v1/vfs/vm1", {"config": vfd.vf(2)})[0] == 422
    assert vfd.row(0)["name"] == "vm1"
    moved = {"config": vfd.vf(2), "move": True}
    assert vfd.ask("PUT", "/v1/vfs/vm1", moved)[0] == 200
    assert vfd.row(0)["state"] == "closed"
    assert vfd.row(2)["name"] == "vm1"


def test_killed_at_any_instant_the_daemon_comes_back_to_what_its_files_say(vfd: Vfd) -> None:
    vfd.add("steady", vfd.vf(0, vm_mac=MAC))
    chance = random.Random(20)
    for _ in range(8):
        stop = threading.Event()

        def change(stop: threading.Event = stop) -> None:
            number = 0
            while not stop.is_set():
                number += 1
                try:
                    vfd.add("vm1", vfd.vf(1, vlans=[number % 4000 + 1]))
                    vfd.ask("PUT", "/v1/vfs/vm1", {"config": vfd.vf(1, vlans=[7, 8])})
                    vfd.ask("DELETE", "/v1/vfs/vm1")
                except (OSError, ValueError, AssertionError, http.client.HTTPException):
                    return

        worker = threading.Thread(target=change)
        worker.start()
        time.sleep(chance.uniform(0.0, 0.4))
        vfd.stop(signal.SIGKILL)
        stop.set()
        worker.join(10)
        vfd.start()
        assert vfd.get("/v1/health")["status"] == "ok"
        assert vfd.row(0)["mac"] == MAC
        file = vfd.config_dir / "vm1.json"
        if file.exists():
            asked = json.loads(file.read_text())["vlans"]
            assert vfd.row(1)["extended"]["vlans"] == asked
        else:
            assert vfd.row(1)["state"] == "closed"
        assert {p.name for p in vfd.config_dir.iterdir()} <= {"steady.json", "vm1.json"}
        vfd.ask("DELETE", "/v1/vfs/vm1")


def test_a_pf_that_had_no_vfs_gets_some_that_can_be_opened(make_vfd: Callable[..., Vfd]) -> None:
    """The kernel forgets the VEB's program with the last port that uses it."""
    vfd = make_vfd(vfs=0)
    for number in range(3):
        vfd.start()
        assert vfd.get("/v1/health")["status"] == "ok"
        assert vfd.ask("PATCH", f"/v1/pfs/{vfd.pf}", {"vfs": 2})[0] == 200
        status, made = vfd.add(f"vm{number}", vfd.vf(0))
        assert status == 201, made
        assert vfd.ask("DELETE", f"/v1/vfs/vm{number}")[0] == 200
        assert vfd.ask("PATCH", f"/v1/pfs/{vfd.pf}", {"vfs": 0})[0] == 200
        vfd.stop()


def test_clear_knows_a_pf_by_all_its_names(vfd: Vfd) -> None:
    vfd.add("vm1", vfd.vf(0))
    assert vfd.ask("POST", "/v1/clear", {"pf": vfd.pf.upper()})[0] == 200
    zeros = json.loads(vfd.socket.with_suffix(".zero").read_text())
    assert zeros.keys() == {vfd.pf}


def test_a_port_that_was_made_anew_counts_in_full(tmp_path: Path) -> None:
    zero = Zero(tmp_path / "zero")
    zero.set("soft0", {0: {"rx_packets": 10, "tx_packets": 1}, 1: {"rx_packets": 3}})
    assert zero.shown("soft0", 0, {"rx_packets": 12, "tx_packets": 5}) == {
        "rx_packets": 2,
        "tx_packets": 4,
    }
    for counted in ({"rx_packets": 2, "tx_packets": 5}, {"rx_packets": 11, "tx_packets": 6}):
        assert zero.shown("soft0", 0, counted) == counted
        assert Zero(tmp_path / "zero").shown("soft0", 0, counted) == counted
    assert zero.shown("soft0", 1, {"rx_packets": 4}) == {"rx_packets": 1}


def test_clear_sets_a_new_zero_that_outlives_the_daemon(vfd: Vfd) -> None:
    vfd.add("vm1", vfd.vf(0))
    send_untagged(vfd, 0, 50)
    assert wait_for(lambda: vfd.row(0)["counters"]["dropped_untagged"] >= 50)
    assert vfd.ask("POST", "/v1/clear", {"pf": vfd.pf, "vf": 0})[0] == 200
    zero = vfd.row(0)["counters"]["dropped_untagged"]
    assert zero < 25  # a netdev that is up says a few things by itself
    vfd.stop(signal.SIGKILL)
    vfd.start()
    assert vfd.row(0)["counters"]["dropped_untagged"] < 25
    send_untagged(vfd, 0, 3)
    wait_for(lambda: vfd.row(0)["counters"]["dropped_untagged"] >= 3)
    assert vfd.ask("POST", "/v1/clear", {"pf": vfd.pf, "vf": 77})[0] == 404


def send_untagged(vfd: Vfd, vfid: int, count: int) -> None:
    import socket
    import subprocess

    name = f"{vfd.pf}v{vfid}"
    subprocess.run(["ip", "link", "set", name, "up"], check=True)
    mac: Any = bytes.fromhex(vfd.row(vfid)["mac"].replace(":", ""))
    frame = b"\xff" * 6 + mac + b"\x88\xb5" + bytes(46)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((name, 0))
        for _ in range(count):
            sock.send(frame)


def test_the_nic_outlives_its_daemon_although_its_namespace_lost_its_name(
    make_vfd: Callable[..., Vfd],
) -> None:
    """``ip -all netns delete``, as scripts that clean up have it."""
    vfd = make_vfd()
    vfd.start()
    vfd.add("vm1", vfd.vf(0))
    mac = vfd.row(0)["mac"]
    name = f"vfd-{vfd.pf}"
    for _ in range(2):
        subprocess.run(["ip", "netns", "delete", name], check=True)
        wait_for(lambda: namespace.exists(name))
    assert "had lost its name" in vfd.output()
    vfd.stop(signal.SIGKILL)
    vfd.start()
    assert (vfd.row(0)["name"], vfd.row(0)["mac"]) == ("vm1", mac)
