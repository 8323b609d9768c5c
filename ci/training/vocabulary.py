"""The tokenizer: byte-level BPE in which a name has the same tokens wherever it stands.

Syllables come first, because names are made of them; then the words that most conversations share,
each to its end, and runs of blanks. No merge crosses from a blank or a mark into a name. Encoding
is the ordinary one, which llama.cpp calls `gpt-2`.
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

SHARED = 0.02
"""Of the conversations have a word that is to be a token; a generated name is in fewer."""
WORD_MAX = 12
BLANK = "\u0120"
"""What byte-level BPE writes for it."""
BLANKS_MAX = 12
END = "<|end|>"
CONTROLS = (END, "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
Merge = tuple[str, str]


def learn(texts: list[str]) -> Tokenizer:
    """The same texts give the same tokenizer."""
    count: Counter[str] = Counter()
    for text in texts:
        count.update({word for word in re.findall("[A-Za-z]+", text) if len(word) <= WORD_MAX})
    words = sorted(word for word, n in count.items() if n >= SHARED * len(texts) and word[1:])
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
    """The most frequent pair first, until each word is one token (Gage 1994)."""
    made: list[Merge] = []
    while pairs := Counter(pair for word in words for pair in pairwise(word)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        made.append(best)
        words = [_merged(word, [best]) for word in words]
    return made


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
    """The tokens of a conversation as the template renders it, and which the model is to say.

    `mistakes` tells of each answer in turn whether it is one, and not to be learnt.
    """
    tokens: list[int] = []
    said: list[bool] = []
    end, left = tokenizer.token_to_id(END), list(mistakes)
    for message in messages:
        content = tokenizer.encode(message["content"], add_special_tokens=False).ids
        tokens += [tokenizer.token_to_id(f"<|{message['role']}|>"), *content, end]
        mine = message["role"] == "assistant" and not left.pop(0)
        said += [False, *[mine] * len(content), mine]
    return tokens, said
