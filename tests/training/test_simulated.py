"""The conversations of the training equal conversations in a real sandbox, byte for byte."""

import re

import pytest
from training.simulated import Simulated
from training.teacher import conversation, lesson

from kvci.sandbox.bwrap import Bwrap
from kvci.tasks.calibration import SYLLABLES, split_of

NAME = re.compile(rf"(?<![a-zA-Z])(?:{'|'.join(SYLLABLES)}){{2,3}}(?![a-zA-Z])")


def check_seeds(seeds: range) -> None:
    """Check that a conversation in memory equals the same conversation in a real sandbox."""
    for seed in seeds:
        instance, turns = lesson(seed)
        sandbox = Bwrap(instance.files)
        try:
            real = conversation(instance, sandbox, turns)
        finally:
            sandbox.close()
        assert conversation(instance, Simulated(instance), turns) == real, seed


def test_simulated_conversations_equal_real_ones() -> None:
    check_seeds(range(20))


@pytest.mark.train
def test_five_hundred_simulated_conversations_equal_real_ones() -> None:
    check_seeds(range(20, 520))


def test_lessons_have_every_kind_of_mistake() -> None:
    lessons = [turns for _, turns in map(lesson, range(300))]
    mistakes = [sum(turn.mistake for turn in turns) for turns in lessons]
    one_mistake = [turns for turns, n in zip(lessons, mistakes, strict=True) if n == 1]
    assert 0.5 < mistakes.count(0) / 300 < 0.68 and mistakes.count(2) > 10
    assert any("sed" in turns[-3].command and turns[-3].mistake for turns in one_mistake)
    contents = [
        message["content"]
        for instance, turns in map(lesson, range(40))
        for message in conversation(instance, Simulated(instance), turns)
    ]
    assert any("No such file" in content for content in contents)


def test_lesson_words_are_never_test_names() -> None:
    for seed in range(300):
        instance, turns = lesson(seed)
        for message in conversation(instance, Simulated(instance), turns):
            words = set(NAME.findall(message["content"]))
            assert {split_of(word) for word in words} <= {"train"}, (seed, words)
