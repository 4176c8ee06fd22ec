"""What a VF and a PF may do, as immutable values, and the rules that hold between them.

Nothing here does I/O, and nothing here imports another part of vfd.
"""
