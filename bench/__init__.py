"""vfd's benchmark: what a policy costs, beside what else one could use. ``make bench`` runs it."""
