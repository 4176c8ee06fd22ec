"""Models of vendors' sysfs interfaces, as FUSE file systems.

A model behaves as the vendor documents its interface, so that the backend's surfaces can be tried
without the hardware. It is written from the vendors' words alone and shares no code with the
backend. What is proven on a model is marked *modelled*, never *proven*: docs/nics.md.
"""
