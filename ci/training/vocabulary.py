"""The tokenizer: byte-level BPE in which a name has the same tokens everywhere.

The first merges are syllables, because names consist of syllables. Then come whole words that many
conversations share, and then sequences of blanks. No merge joins a blank or a punctuation mark with
a name. llama.cpp calls the encoding `gpt-2`.
"""

import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as Bytes
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from kvci.agent.protocol import Message
from kvci.tasks.calibration import SYLLABLES

SHARE_MIN = 0.02
"""A word is a token if at least this share of conversations has it. Generated names are rarer."""
WORD_LETTERS_MAX = 12
BLANK = "\u0120"
"""The character that byte-level BPE writes for a blank."""
BLANKS_MAX = 12
END = "<|end|>"
CONTROLS = (END, "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
Merge = tuple[str, str]


def learn(texts: list[str]) -> Tokenizer:
    """Return the tokenizer of these texts; the same texts give the same tokenizer."""
    count: Counter[str] = Counter()
    for text in texts:
        count.update(
            {word for word in re.findall("[A-Za-z]+", text) if len(word) <= WORD_LETTERS_MAX}
        )
    words = sorted(word for word, n in count.items() if n >= SHARE_MIN * len(texts) and word[1:])
    merges: list[Merge] = [(syllable[0], syllable[1]) for syllable in SYLLABLES]
    merges += _merges([_merged(list(word), merges) for word in words])
    merges += [(BLANK * (n - n // 2), BLANK * (n // 2)) for n in range(2, BLANKS_MAX + 1)]
    tokens = [*CONTROLS, *sorted(ByteLevel.alphabet()), *map("".join, merges)]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=merges))
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in CONTROLS])
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = Bytes()
    return tokenizer


def _merges(words: list[list[str]]) -> list[Merge]:
    """Return the merges that make each word one token, the most frequent pair first (Gage 1994)."""
    found: list[Merge] = []
    while pairs := Counter(pair for word in words for pair in pairwise(word)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        found.append(best)
        words = [_merged(word, [best]) for word in words]
    return found


def _merged(parts: list[str], merges: Iterable[Merge]) -> list[str]:
    for first, second in merges:
        done: list[str] = []
        for part in parts:
            if done and (done[-1], part) == (first, second):
                done[-1] += part
            else:
                done.append(part)
        parts = done
    return parts


def encode(
    tokenizer: Tokenizer, messages: list[Message], mistakes: list[bool]
) -> tuple[list[int], list[bool]]:
    """Return the tokens of a conversation as the template renders it, and a flag per token.

    The flag is true for targets: tokens that the model learns to say. `mistakes` has one value per
    answer. The value is True if the answer is a mistake, which the model must not learn.
    """
    tokens: list[int] = []
    targets: list[bool] = []
    end, remaining = tokenizer.token_to_id(END), list(mistakes)
    for message in messages:
        content = tokenizer.encode(message["content"], add_special_tokens=False).ids
        tokens += [tokenizer.token_to_id(f"<|{message['role']}|>"), *content, end]
        target = message["role"] == "assistant" and not remaining.pop(0)
        targets += [False, *[target] * len(content), target]
    return tokens, targets
