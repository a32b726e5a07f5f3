"""How a run may end that is not a success.

Skipped     this machine cannot run an engine; not a fault of the page
Failed      the page, or what it promises, is wrong
"""


class Skipped(Exception):
    """One line that says why nothing could be tested here."""


class Failed(Exception):
    """What went otherwise than the page says, with the last lines of the log it is in."""
