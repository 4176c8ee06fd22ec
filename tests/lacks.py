"""The one skip that a whole run allows."""

from _pytest.outcomes import Skipped


class Lacks(Skipped):
    """A NIC hasn't what a test is about, in the NIC's own words. Which NICs may lack what is held
    by a test of its own."""
