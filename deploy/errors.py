"""What goes wrong for reasons the person who deploys can do something about."""


class DeployError(Exception):
    """The message says what is the matter, and what to do."""
