"""Frames that a guest sends and sees, by AF_PACKET in its namespace.

Run as ``python -m demo.frames send|watch …`` inside a namespace: a guest is another process.
"""

from __future__ import annotations

import argparse
import socket
import struct
import sys
import time

ETH_P_ALL = 3
SOL_PACKET, PACKET_AUXDATA = 263, 8
_TP_STATUS_VLAN_VALID = 1 << 4
ETHERTYPE = 0x88B5
"""IEEE 802a local experimental ethertype: nothing else on a demo's wire uses it."""


def send(netdev: str, dst: str, src: str, tags: list[str], count: int) -> None:
    """``count`` frames; ``tags`` are ``TPID:VID`` in hexadecimal and decimal, outer first."""
    frame = _mac(dst) + _mac(src)
    for tag in tags:
        tpid, vid = tag.split(":")
        frame += struct.pack("!HH", int(tpid, 16), int(vid))
    frame += struct.pack("!H", ETHERTYPE) + b"vfd demo".ljust(46, b".")
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind((netdev, 0))
        for _ in range(count):
            out.send(frame)


def watch(netdev: str, seconds: float) -> None:
    """Prints the demo's frames as they arrive, tags first, each kind once with its number."""
    seen: dict[str, int] = {}
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as tap:
        tap.bind((netdev, 0))
        tap.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        print("watching", flush=True)
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            tap.settimeout(left)
            try:
                data, aux, _, address = tap.recvmsg(2048, 256)
            except TimeoutError:
                break
            if address[2] != socket.PACKET_OUTGOING and (words := _describe(data, aux)):
                seen[words] = seen.get(words, 0) + 1
    for words, number in seen.items():
        print(f"{number} × {words}")
    if not seen:
        print("nothing")


def _describe(data: bytes, aux: list[tuple[int, int, bytes]]) -> str:
    """``dst ← src [88a8:200][8100:7]`` for one of the demo's frames, else ''."""
    tags = []
    for _, kind, value in aux:
        if kind == PACKET_AUXDATA:
            status, _, _, _, _, tci, tpid = struct.unpack("IIIHHHH", value[:20])
            if status & _TP_STATUS_VLAN_VALID:  # the kernel takes the outer tag out of the bytes
                tags.append((tpid or 0x8100, tci & 0xFFF))
    at = 12
    while (tpid := int.from_bytes(data[at : at + 2], "big")) in (0x8100, 0x88A8):
        tags.append((tpid, int.from_bytes(data[at + 2 : at + 4], "big") & 0xFFF))
        at += 4
    if tpid != ETHERTYPE:
        return ""
    words = "".join(f"[{tpid:04x} VID {vid}]" for tpid, vid in tags) or "[no tag]"
    return f"{words} {data[6:12].hex(':')} → {data[:6].hex(':')}"


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def main() -> int:
    parser = argparse.ArgumentParser(prog="demo.frames", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    sending = commands.add_parser("send")
    sending.add_argument("netdev")
    sending.add_argument("dst")
    sending.add_argument("src")
    sending.add_argument("--tag", action="append", default=[])
    sending.add_argument("--count", type=int, default=1)
    watching = commands.add_parser("watch")
    watching.add_argument("netdev")
    watching.add_argument("seconds", type=float)
    options = parser.parse_args()
    if options.command == "send":
        send(options.netdev, options.dst, options.src, options.tag, options.count)
    else:
        watch(options.netdev, options.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
