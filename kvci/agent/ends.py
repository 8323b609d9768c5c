"""The ends of a conversation are exceptions, so that the loop needs no flags."""

from kvci.taxonomy import Exit


class Ended(Exception):
    """The conversation is over; `exit` is the reason, the message is the evidence."""

    def __init__(self, exit: Exit, detail: str = "") -> None:
        super().__init__(detail)
        self.exit, self.detail = exit, detail


class FormatError(Exception):
    """The answer holds no action, or more than one; the message goes back to the model."""
