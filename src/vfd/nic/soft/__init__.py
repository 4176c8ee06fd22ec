"""A software NIC: veth or tap ports and an eBPF VEB."""
