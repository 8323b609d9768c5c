"""The exceptions of a conversation. Its ends are exceptions, so that the loop needs no flags."""

from kvci.taxonomy import Exit


class Ended(Exception):
    """The conversation has ended. `exit` is the reason, and `detail` is the evidence."""

    def __init__(self, exit: Exit, detail: str = "") -> None:
        super().__init__(detail)
        self.exit, self.detail = exit, detail


class FormatError(Exception):
    """The answer does not contain exactly one action. The model sees the exception's message."""
