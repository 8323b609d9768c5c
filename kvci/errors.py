"""The exception for every problem that a user can fix."""


class UserError(Exception):
    """The message says what is wrong, where, and what to do. kvci prints it and exits with 2."""
