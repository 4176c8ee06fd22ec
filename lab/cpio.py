"""The newc archive format of an initial RAM disk (kernel: Documentation/driver-api/early-userspace/
buffer-format.rst)."""

import stat

Node = tuple[str, int, bytes]  # path, mode, content


def directory(path: str) -> Node:
    """A folder."""
    return path, stat.S_IFDIR | 0o755, b""


def file(path: str, content: bytes, *, executable: bool = False) -> Node:
    """A regular file."""
    return path, stat.S_IFREG | (0o755 if executable else 0o644), content


def archive(nodes: list[Node]) -> bytes:
    """An archive; the kernel unpacks several of them one after another into one tree."""
    parts = []
    for inode, (path, mode, content) in enumerate([*nodes, ("TRAILER!!!", 0, b"")], start=1):
        name = path.encode() + b"\0"
        # ino mode uid gid nlink mtime size devmajor devminor rdevmajor rdevminor namesize check
        fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        parts += [_padded(header + name), _padded(content)]
    return b"".join(parts)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
