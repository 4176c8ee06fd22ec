"""The daemon: holds the desired state, runs plans, answers guests, repairs drift."""
