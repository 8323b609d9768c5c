"""Make training data: a seed -> an instance of the training split -> a conversation -> tokens."""

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

TOKENIZER_CONVERSATIONS = 2000
"""The number of conversations from which the tokenizer is learnt."""
CHUNK_CONVERSATIONS = 128
"""The number of conversations that a worker makes at once."""
Sample = tuple["np.ndarray[Any, Any]", "np.ndarray[Any, Any]"]
"""The tokens of a conversation, and for each token whether the model learns to say it."""
PADDING, CONTEXT, TARGET = 0, 1, 2
"""Roles of tokens in a row: padding, tokens that the model only reads, and tokens that it learns to
say."""


def learn_tokenizer() -> Tokenizer:
    """Learn the tokenizer from conversations that are always the same, and return it."""
    lessons = map(lesson, range(TOKENIZER_CONVERSATIONS))
    conversations = (
        conversation(instance, Simulated(instance), turns) for instance, turns in lessons
    )
    return learn(["\n".join(message["content"] for message in one) for one in conversations])


@cache
def _load_tokenizer(text: str) -> Tokenizer:
    return Tokenizer.from_str(text)


def sample(instance: Instance, turns: list[Turn], tokenizer: Tokenizer) -> Sample:
    messages = conversation(instance, Simulated(instance), turns)
    tokens, targets = encode(tokenizer, messages, [turn.mistake for turn in turns])
    return np.array(tokens, np.int16), np.array(targets)


def _chunk(number: int, text: str) -> list[Sample]:
    first = number * CHUNK_CONVERSATIONS
    seeds = range(first, first + CHUNK_CONVERSATIONS)
    return [sample(*lesson(seed), _load_tokenizer(text)) for seed in seeds]


def samples(tokenizer: Tokenizer, workers: int, first_chunk: int = 0) -> Iterator[Sample]:
    """Yield samples without end, in an order that does not depend on the number of workers."""
    text = tokenizer.to_str()
    with ProcessPoolExecutor(workers) as pool:
        number = first_chunk + 4 * workers
        pending = [pool.submit(_chunk, n, text) for n in range(first_chunk, number)]
        while True:
            done = pending.pop(0).result()
            pending.append(pool.submit(_chunk, number, text))
            number += 1
            yield from done


@dataclass
class Rows:
    """A packer of whole conversations into rows of `length` tokens; `pad` fills the rest."""

    length: int
    pad: int

    def pack(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """Yield rows of tokens and their roles. Conversations longer than a row are omitted."""
        tokens, roles = self._empty()
        filled = 0
        for ids, targets in samples:
            if len(ids) > self.length:
                continue
            if filled + len(ids) > self.length:
                yield tokens, roles
                (tokens, roles), filled = self._empty(), 0
            tokens[filled : filled + len(ids)] = ids
            roles[filled : filled + len(ids)] = np.where(targets, TARGET, CONTEXT)
            filled += len(ids)

    def _empty(self) -> Sample:
        roles = np.full(self.length, PADDING, np.int8)
        return np.full(self.length, self.pad, np.int16), roles
