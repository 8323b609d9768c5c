"""The exception for everything that a user can fix."""


class UserError(Exception):
    """Its message says what is wrong, where, and what to do. The command line exits 2 with it."""
