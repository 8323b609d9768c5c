"""Training data: a seed -> an instance of the training split -> a conversation -> tokens."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from kvci.tasks.instance import Instance
from training.simulated import Simulated
from training.teacher import Turn, conversation, lesson
from training.vocabulary import encode, learn

LEARNT_FROM = 2000
"""Conversations that the tokenizer is learnt from."""
CHUNK = 128
"""Conversations that a worker makes at once."""
Sample = tuple["np.ndarray[Any, Any]", "np.ndarray[Any, Any]"]
"""Tokens, and which of them the model is to say."""


def tokenizer() -> Tokenizer:
    """Learnt anew each time, from the same conversations."""
    made = map(lesson, range(LEARNT_FROM))
    talks = (conversation(one, Simulated(one), said) for one, said in made)
    return learn(["\n".join(message["content"] for message in talk) for talk in talks])


@cache
def _tokenizer(text: str) -> Tokenizer:
    return Tokenizer.from_str(text)


def sample(one: Instance, said: list[Turn], words: Tokenizer) -> Sample:
    talk = conversation(one, Simulated(one), said)
    tokens, mine = encode(words, talk, [turn.mistake for turn in said])
    return np.array(tokens, np.int16), np.array(mine)


def _chunk(number: int, text: str) -> list[Sample]:
    first = number * CHUNK
    return [sample(*lesson(seed), _tokenizer(text)) for seed in range(first, first + CHUNK)]


def samples(words: Tokenizer, workers: int, first_chunk: int = 0) -> Iterator[Sample]:
    """Without end and always in the same order, however many workers make them."""
    text = words.to_str()
    with ProcessPoolExecutor(workers) as pool:
        number = first_chunk + 4 * workers
        waiting = [pool.submit(_chunk, n, text) for n in range(first_chunk, number)]
        while True:
            done = waiting.pop(0).result()
            waiting.append(pool.submit(_chunk, number, text))
            number += 1
            yield from done


@dataclass
class Rows:
    """Whole conversations side by side in rows of `length` tokens; what is left over is padding."""

    length: int
    pad: int

    def pack(self, some: Iterable[Sample]) -> Iterator[Sample]:
        """A conversation that is longer than a row is left out."""
        tokens, said = self._empty()
        filled = 0
        for ids, mine in some:
            if len(ids) > self.length:
                continue
            if filled + len(ids) > self.length:
                yield tokens, said
                (tokens, said), filled = self._empty(), 0
            tokens[filled : filled + len(ids)] = ids
            said[filled : filled + len(ids)] = np.where(mine, 2, 1)
            filled += len(ids)

    def _empty(self) -> Sample:
        """0 is padding, 1 what is told, 2 what the model says."""
        return np.full(self.length, self.pad, np.int16), np.zeros(self.length, np.int8)
