"""The ledger `images.json`: the state of each image that a run needs."""

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator

from kvci.errors import UserError
from kvci.files import Document

State = Literal["needed", "pulling", "present", "pulled", "absent", "failed", "evicted"]
OLD_WORDS = {"let go": "evicted"}
"""State in a ledger of kvci 0.1.0 -> today's state."""


class Entry(Document):
    """The state of one image."""

    image: str
    state: Annotated[State, BeforeValidator(lambda word: OLD_WORDS.get(word, word))]
    why: str = ""
    attempts: int = 0
    seconds: float = 0.0
    id: str = ""


class Ledger(Document):
    """One entry for each image that the run needs, in the order in which it needs them."""

    images: tuple[Entry, ...] = ()


class LedgerFile:
    """The ledger of one run, written to its file after each change. Safe to use from threads."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        known = Ledger.read(path).images if path.exists() else ()
        self._entries = {entry.image: entry for entry in known}

    def expect(self, images: Iterable[str]) -> None:
        """Add an entry, in the state `needed`, for each image that has none. Write no file yet."""
        for image in images:
            self._entries.setdefault(image, Entry(image=image, state="needed"))

    def has(self, image: str) -> bool:
        return image in self._entries

    def entries(self) -> list[Entry]:
        return list(self._entries.values())

    def entry(self, image: str) -> Entry | None:
        return self._entries.get(image)

    def states(self, images: Iterable[str]) -> set[State]:
        return {self._entries[image].state for image in images}

    def write(self, entry: Entry) -> None:
        """Replace the image's entry. Raises UserError if the file cannot be written."""
        with self._lock:
            self._entries[entry.image] = entry
            try:
                Ledger(images=tuple(self._entries.values())).write(self._path)
            except OSError as error:
                raise UserError(
                    f"{self._path} cannot be written ({error.strerror}); check its folder."
                ) from None

    def change(self, image: str, state: State, why: str) -> None:
        """Change the state of an image that the ledger has.

        Raises UserError if the file cannot be written.
        """
        self.write(self._entries[image].model_copy(update={"state": state, "why": why}))
