"""How a run of `make deploy-test` may end that is not a success.

Skipped     this machine cannot run the test
Failed      the deployment did something else than the docs say
"""


class Skipped(Exception):
    """One line that says why nothing could be tested here."""


class Failed(Exception):
    """The first thing that was not as expected."""
