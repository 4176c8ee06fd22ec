"""The shipped BPF program, held against the reference model."""
