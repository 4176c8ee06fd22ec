"""vfd, a NIC hypervisor: what each SR-IOV virtual function may send, receive and ask for."""

__version__ = "0.1.0"
