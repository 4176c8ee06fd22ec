"""The laboratory: a virtual machine with SR-IOV NICs, on any x86-64 Debian machine.

A fresh guest boots a stock Debian kernel on the host's own root file system (read-only, with a
tmpfs on top), with QEMU's emulated Intel 82576 NICs, and runs one command or a shell in it.
Nothing of the host is changed and nothing is left behind.  docs/lab.md says how to use it.

Standard library only: the laboratory runs before the project's virtual environment exists.
"""
