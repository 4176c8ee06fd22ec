"""``iplex``, the command line: a client of the API that knows nothing of the daemon's inside."""
