"""Any SR-IOV NIC whose PF a Linux driver owns."""
