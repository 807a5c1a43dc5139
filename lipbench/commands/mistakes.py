"""The error of a command line."""


class CommandError(Exception):
    """A command line that cannot be obeyed, with what exists instead."""
