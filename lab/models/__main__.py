"""``python -m lab.models {intel,mellanox} --vfs N MOUNTPOINT``: serves a model until stdin ends.

The vendor's files are then in MOUNTPOINT, as in ``/sys/class/net/PF/device/sriov``. Whoever starts
it holds its standard input: the model unmounts and ends with its starter, however that ends.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
import threading

from lab.models.files import ModelFiles, serve
from lab.models.intel import IntelModel
from lab.models.mellanox import MellanoxModel

MNT_DETACH = 2


def unmount_at_end_of_input(mountpoint: str) -> None:
    """Takes the file system away at the end of standard input, and ends with it: a mount namespace
    that was made meanwhile has the mount, too, for which ``serve`` would go on."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    ctypes.CDLL(None).umount2(os.fsencode(mountpoint), MNT_DETACH)
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lab.models", description=__doc__)
    parser.add_argument("vendor", choices=("intel", "mellanox"))
    parser.add_argument("mountpoint")
    parser.add_argument("--vfs", type=int, default=8)
    parser.add_argument("--no-tpid", action="store_true", help="as on Intel's X722")
    args = parser.parse_args()
    model: IntelModel | MellanoxModel
    if args.vendor == "intel":
        model = IntelModel(args.vfs, no_tpid=args.no_tpid)
    else:
        model = MellanoxModel(args.vfs)
    watcher = threading.Thread(target=unmount_at_end_of_input, args=(args.mountpoint,), daemon=True)
    watcher.start()
    serve(ModelFiles(model.tree, model.state, model.control()), args.mountpoint)


if __name__ == "__main__":
    main()
