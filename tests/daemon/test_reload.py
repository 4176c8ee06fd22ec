"""SIGHUP: all that can follow the files follows them, and the rest is said and tried again."""

from __future__ import annotations

from collections.abc import Callable

from .harness import Vfd, wait_for


def soft(pf: str, vfs: int = 2) -> dict[str, object]:
    return {"id": pf, "backend": "soft", "vfs": vfs}


def states(vfd: Vfd) -> dict[str, str]:
    return {pf["id"]: pf["state"] for pf in vfd.get("/v1/health")["pfs"]}


def test_a_nic_that_another_daemon_has_is_told_at_a_reload_and_all_else_follows(
    make_vfd: Callable[..., Vfd],
) -> None:
    holder, vfd = make_vfd(), make_vfd()
    last = f"{vfd.pf}b"
    vfd.look_every(0.3)
    holder.start()
    vfd.start()
    vfd.main["pciids"] = [soft(vfd.pf), soft(holder.pf), soft(last)]
    vfd.put_file("comes", {"pciid": last, "vfid": 1, "vlans": [7]})
    vfd.write_main()
    vfd.reload()
    assert states(vfd) == {vfd.pf: "ok", holder.pf: "failed", last: "ok"}
    assert vfd.get("/v1/vfs/comes")["state"] == "ok"
    [told] = vfd.events("failed")
    assert f"NIC {holder.pf} is in use by another daemon" in told["text"]
    holder.stop()
    wait_for(lambda: states(vfd)[holder.pf] == "ok")
    assert len(vfd.events("failed")) == 1, "told once, not at every attempt"


def test_what_only_a_restart_can_change_is_said(vfd: Vfd) -> None:
    vfd.main.update(pid_fname=str(vfd.folder / "other"), socket=str(vfd.folder / "s2"))
    vfd.write_main()
    vfd.reload()
    told = [event["text"] for event in vfd.events("warning")]
    assert [text.split(" = ")[0] for text in told] == ["socket", "pid_fname"]
    assert all("until the daemon is restarted" in text for text in told)


def test_warnings_about_the_main_file_are_told_at_a_reload_too(vfd: Vfd) -> None:
    vfd.main["fifo"] = "/run/vfd/fifo"
    vfd.write_main()
    vfd.reload()
    [told] = vfd.events("warning")
    assert "fifo" in told["text"]
    assert "replaced by the socket" in told["text"]
