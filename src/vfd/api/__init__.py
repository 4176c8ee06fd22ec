"""HTTP and JSON over a Unix socket. Everything outside the daemon is a client of it."""
