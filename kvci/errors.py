"""The one exception type for what a user can fix."""


class UserError(Exception):
    """One sentence: what is wrong, where, and what to do. The command line exits 2 with it."""
