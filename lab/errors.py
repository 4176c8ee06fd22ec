"""What the laboratory says when it can't go on."""


class LabError(Exception):
    """Something the user has to hear: what was asked, what was found, what to do."""
