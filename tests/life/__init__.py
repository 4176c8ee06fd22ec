"""The life cycle under traffic: what a running NIC's guests must not notice."""
