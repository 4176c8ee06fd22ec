"""The packet suite: one table of cases, and what puts a NIC under it (docs/conformance.md)."""
