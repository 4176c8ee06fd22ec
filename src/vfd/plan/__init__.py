"""Desired minus observed: an ordered list of changes, each with its inverse. Pure."""
