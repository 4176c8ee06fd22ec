"""ethtool's private flags on the emulated 82576, which has one: ``legacy-rx``."""

from __future__ import annotations

from pathlib import Path

from tests.lab.igb import pf_name

from vfd.nic.kernel.legacy import private_flags, set_private_flags


def test_a_flag_is_set_and_read_back_and_others_stay() -> None:
    igb = int(Path("/sys/class/net", pf_name(), "ifindex").read_text())
    before = private_flags(igb)
    assert "legacy-rx" in before
    set_private_flags(igb, {"legacy-rx": True, "no-such-flag": True})
    try:
        assert private_flags(igb) == {**before, "legacy-rx": True}
    finally:
        set_private_flags(igb, before)
    assert private_flags(igb) == before
