"""What the model is trained on is what it will meet, byte for byte."""

import re

import pytest
from training.simulated import Simulated
from training.teacher import conversation, lesson

from kvci.sandbox.bwrap import Bwrap
from kvci.tasks.calibration import SYLLABLES, split_of

NAME = re.compile(rf"(?<![a-zA-Z])(?:{'|'.join(SYLLABLES)}){{2,3}}(?![a-zA-Z])")


def real_and_simulated(seeds: range) -> None:
    for seed in seeds:
        one, said = lesson(seed)
        sandbox = Bwrap(one.files)
        try:
            real = conversation(one, sandbox, said)
        finally:
            sandbox.close()
        assert conversation(one, Simulated(one), said) == real, seed


def test_conversations_in_memory_are_those_of_a_sandbox() -> None:
    real_and_simulated(range(20))


@pytest.mark.train
def test_five_hundred_conversations_in_memory_are_those_of_a_sandbox() -> None:
    real_and_simulated(range(20, 520))


def test_the_lessons_have_every_kind_of_mistake() -> None:
    said = [turns for _, turns in map(lesson, range(300))]
    mistakes = [sum(turn.mistake for turn in turns) for turns in said]
    mended = [turns for turns, n in zip(said, mistakes, strict=True) if n == 1]
    assert 0.5 < mistakes.count(0) / 300 < 0.68 and mistakes.count(2) > 10
    assert any("sed" in turns[-3].command and turns[-3].mistake for turns in mended)
    made = map(lesson, range(40))
    heard = [conversation(one, Simulated(one), said) for one, said in made]
    assert any("No such file" in message["content"] for talk in heard for message in talk)


def test_no_word_of_a_lesson_may_be_a_test_name() -> None:
    for seed in range(300):
        one, said = lesson(seed)
        for message in conversation(one, Simulated(one), said):
            words = set(NAME.findall(message["content"]))
            assert {split_of(word) for word in words} <= {"train"}, (seed, words)
