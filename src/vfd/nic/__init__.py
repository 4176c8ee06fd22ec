"""NIC backends, and the one protocol that they implement."""
