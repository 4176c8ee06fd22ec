"""``make demo``: two tenants on a software NIC, from nothing to the operator's table."""
