"""Whatever is sent gets an answer that says what is wrong with it: never 500, and no traceback."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest
from tests.daemon.harness import Vfd

pytestmark = pytest.mark.root

GET = b"GET %s HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
HUGE = b"9" * 5000
PLAN = b"POST /v1/plan HTTP/1.1\r\nhost: x\r\n"


def post(body: bytes, path: bytes = b"/v1/plan", method: bytes = b"POST") -> bytes:
    head = b"%s %s HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"
    return head % (method, path) + b"content-length: %d\r\n\r\n%s" % (len(body), body)


ODD = {
    "a NUL in a path": GET % b"/v1/vfs/a%00b",
    "no UTF-8 in a path": GET % b"/v1/vfs/%ff%fe",
    "raw bytes in a path": GET % b"/v1/vfs/\xff\xfe",
    "half a surrogate in a path": GET % b"/v1/vfs/%ed%a0%80",
    "a broken escape in a path": GET % b"/v1/vfs/%zz%",
    "a path of dots": GET % b"/v1/../../etc/passwd",
    "a path with a host": GET % b"http://[::1/v1/show",
    "an empty name": GET % b"/v1/vfs/",
    "a long name": GET % (b"/v1/vfs/" + b"x" * 60_000),
    "a header that is too long": GET % (b"/v1/vfs/" + b"x" * 70_000),
    "a VF of 5000 digits": GET % (b"/v1/show?vf=" + HUGE),
    "an event of 5000 digits": GET % (b"/v1/events?since=" + HUGE),
    "an event of 4000 digits": GET % (b"/v1/events?since=" + HUGE[:4000]),
    "a negative VF": GET % b"/v1/show?vf=-1",
    "no UTF-8 in a query": GET % b"/v1/show?pf=%ff",
    "a NUL in a query": GET % b"/v1/show?pf=%00",
    "no UTF-8 as a parameter's name": GET % b"/v1/show?%ff=1",
    "a VF of 5000 digits in a path": post(b'{"direction": "in"}', b"/v1/pfs/p/vfs/%s/mirror" % HUGE)
    .replace(b"POST", b"PUT", 1),
    "an unknown method": b"BREW /v1/show HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "another HTTP": b"GET /v1/show HTTP/9.9\r\nhost: x\r\n\r\n",
    "no host": b"GET /v1/show HTTP/1.1\r\nconnection: close\r\n\r\n",
    "two lengths": PLAN + b"content-length: 1\r\ncontent-length: 2\r\n\r\n",
    "a length that is none": PLAN + b"content-length: x\r\n\r\n",
    "a length of 5000 digits": PLAN + b"content-length: %s\r\n\r\n" % HUGE,
    "chunks that are none": PLAN + b"transfer-encoding: chunked\r\n\r\nx\r\n",
    "an upgrade": (GET % b"/v1/no").replace(b"close", b"upgrade\r\nupgrade: websocket"),
    "no JSON": post(b"{"),
    "an empty body": post(b""),
    "no UTF-8": post(b'{"name": "\xff"}'),
    "UTF-16": post('{"name": "a"}'.encode("utf-16")),
    "half a surrogate": post(b'{"name": "\\ud800", "config": {}}'),
    "half a surrogate as a key": post(b'{"\\ud800": 1}'),
    "half a surrogate in the configuration": post(b'{"name": "a", "config": {"pciid": "\\udfff"}}'),
    "a key of the configuration that is half a surrogate": post(
        b'{"name": "a", "config": {"\\udfff": 1}}'
    ),
    "a number of 5000 digits": post(b'{"name": "a", "config": {"vfid": %s}}' % HUGE),
    "a number of 4000 digits": post(b'{"name": "a", "config": {"vfid": %s}}' % HUGE[:4000]),
    "a number of 900 digits": post(b'{"name": "a", "config": {"vfid": %s}}' % HUGE[:900]),
    "a number without end": post(b'{"name": "a", "config": {"vfid": 1e999}}'),
    "no number": post(b'{"name": "a", "config": {"vfid": NaN}}'),
    "a deep one": post(b'{"name": "a", "config": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "a rather deep one": post(b'{"config": {"vlans": ' + b"[" * 400 + b"]" * 400 + b"}}"),
    "a NUL in a name": post(b'{"name": "a\\u0000b", "config": {}}'),
    "a list": post(b"[]"),
    "nothing": post(b"null"),
    "a level of 5000 digits": post(b'{"level": %s}' % HUGE, b"/v1/verbose", b"PUT"),
}  # fmt: skip

TAKEN = ("an event of 4000 digits", "another HTTP", "a number of 4000 digits",
         "a number of 900 digits", "a rather deep one")  # fmt: skip
"""What is odd and not wrong, or is told as a plan's problem."""
NOT_THERE = ("no UTF-8 in a path", "half a surrogate in a path", "a broken escape in a path",
             "a path of dots", "a path with a host", "no UTF-8 in a query",
             "an upgrade")  # fmt: skip
ANSWERED = {
    **dict.fromkeys(ODD, 400),
    **dict.fromkeys(TAKEN, 200),
    **dict.fromkeys(NOT_THERE, 404),
    "an unknown method": 405,
}


@pytest.fixture(scope="module")
def vfd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vfd]:
    daemon = Vfd(tmp_path_factory.mktemp("d"), pciids=[])
    daemon.start()
    yield daemon
    daemon.clean_up()


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_request_is_told_that_it_is_wrong(vfd: Vfd, odd: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(str(vfd.socket))
        sock.sendall(ODD[odd])
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := sock.recv(65536):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    assert status == ANSWERED[odd], answer[:2000]
    told = json.loads(body)
    json.dumps(told, ensure_ascii=False).encode()  # no half surrogates
    if status != 200:
        assert b"application/problem+json" in head
        assert told["detail"], told
        assert len(body) < 20_000, len(body)
    assert "Traceback" not in vfd.output()
    assert len(vfd.output()) < 100_000
