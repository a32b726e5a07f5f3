"""The error for problems that the person who deploys can solve."""


class DeployError(Exception):
    """The message says what is wrong and what to do."""
