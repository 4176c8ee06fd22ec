"""iplex, the command line."""
