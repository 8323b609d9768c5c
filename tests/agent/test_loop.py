"""Test the loop in the real sandbox, with a real HTTP server that gives known answers."""

import json
import time
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from kvci.agent.client import Client
from kvci.agent.conversation import Conversation
from kvci.agent.loop import Place, converse
from kvci.rundir.documents import WITHOUT_PATCH
from kvci.rundir.trajectory import replay
from kvci.sandbox.bwrap import Bwrap
from kvci.serve.replay import Handler as Replaying
from kvci.serve.replay import completion
from kvci.spec import Spec, load
from kvci.taxonomy import Exit
from tests.answers import listening
from tests.conftest import MODEL

OVERFLOW = {"error": {"code": 400, "type": "exceed_context_size_error", "message": "too long"}}


class Scripted(ThreadingHTTPServer):
    """A server that gives its answers in order, and repeats the last answer.

    An int is a cut answer with this number of tokens. None is a cut connection. A float is a delay
    in seconds.
    """

    def __init__(self, answers: list[Any]) -> None:
        self.answers, self.requests = answers, list[dict[str, Any]]()
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(Replaying):
    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, Scripted)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = server.answers[min(len(server.requests), len(server.answers) - 1)]
        server.requests.append(body)
        if isinstance(answer, float):
            time.sleep(answer)
        if answer is None or isinstance(answer, float):
            self.close_connection = True
        elif isinstance(answer, tuple):
            self.reply(*answer)
        else:
            cut = isinstance(answer, int)
            text, count = ("x", answer) if cut else (answer, 7)
            timings = {"timings": {"predicted_n": count}}
            self.reply(200, completion(text, cut, 5, count) | timings)


def bash(command: str) -> str:
    return f"I think.\n```bash\n{command}\n```\n"


@pytest.fixture
def box() -> Iterator[Bwrap]:
    made = Bwrap({"a.py": "x = 1\n"})
    yield made
    made.close()


def asked(**overrides: Any) -> Spec:
    fields = {"model": str(MODEL), "arms": ["f16/f16"], "dataset": "x", "max_tokens": 50}
    return load(None, fields | overrides)


def talk(answers: list[Any], box: Bwrap, folder: Path, **overrides: Any) -> Conversation:
    spec = asked(**overrides)
    server = Scripted(answers)
    place = Place(Client(server.url, lambda: True), box, 0, folder / "trajectory.jsonl")
    with listening(server):
        return converse(spec, "It is wrong.", "i-1", 3, place)


FIX = bash("sed -i s/1/2/ a.py")
CASES: dict[str, tuple[list[Any], Exit, dict[str, Any]]] = {
    "submitted": ([FIX, bash("submit")], Exit.SUBMITTED, {}),
    "loop": ([FIX, bash("ls")], Exit.LOOP, {}),
    "runaway": ([FIX, 50], Exit.ANSWER_LIMIT, {}),
    "overflow": ([FIX, (400, OVERFLOW)], Exit.CONTEXT_OVERFLOW, {}),
    "cut by the context": ([FIX, 20], Exit.CONTEXT_OVERFLOW, {}),
    "malformed": ([FIX, "no command"], Exit.FORMAT_ERRORS, {}),
    "steps": ([FIX], Exit.STEP_LIMIT, {"max_steps": 2}),
    "tokens": ([FIX], Exit.TOKEN_LIMIT, {"max_total_tokens": 14}),
    "time": ([FIX, 3.0], Exit.TIME_LIMIT, {"trial_s": 1.5}),
    "server gone": ([FIX, None], Exit.SERVER_FAILED, {}),
    "server error": ([FIX, (500, {"error": "broken"})], Exit.REQUEST_FAILED, {}),
    "unparsable": ([FIX, (500, {"error": "Failed to parse input"})], Exit.FORMAT_ERRORS, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_every_end_has_its_exit_and_a_patch(case: str, box: Bwrap, tmp_path: Path) -> None:
    answers, expected, overrides = CASES[case]
    found = talk(answers, box, tmp_path, **overrides)
    assert found.exit is expected, found.detail
    assert b"+x = 2" in found.patch
    lines = (tmp_path / "trajectory.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["exit"] == expected
    assert json.loads(lines[1])["timings"] == {"predicted_n": 7}


@pytest.mark.parametrize("case", CASES)
def test_stored_answers_give_the_same_conversation(case: str, box: Bwrap, tmp_path: Path) -> None:
    """The review relies on this: the rules of the agent find each end in the file again."""
    answers, expected, overrides = CASES[case]
    found = talk(answers, box, tmp_path, **overrides)
    again = replay(tmp_path / "trajectory.jsonl", asked(**overrides), expected)
    from_outside = expected in WITHOUT_PATCH
    assert again.exit is (Exit.KVCI_FAILED if from_outside else expected)
    names = ("actions", "answers", "loops", "malformed", "answer_tokens", "depth_tokens")
    assert [getattr(again, name) for name in names] == [getattr(found, name) for name in names]
    assert again.steps == found.steps - from_outside


def test_a_well_formed_answer_resets_format_errors(box: Bwrap, tmp_path: Path) -> None:
    unparsed = (500, {"error": "Failed to parse input"})
    answers = ["no", unparsed, bash("ls"), unparsed, "no", bash("submit")]
    found = talk(answers, box, tmp_path)
    assert (found.exit, found.malformed, found.steps) == (Exit.SUBMITTED, 4, 6)
    again = replay(tmp_path / "trajectory.jsonl", asked(), found.exit)
    assert (again.exit, again.malformed, again.steps) == (Exit.SUBMITTED, 4, 6)


def test_the_observation_keeps_head_and_tail(box: Bwrap, tmp_path: Path) -> None:
    talk([bash("echo first; seq 100000; echo last"), bash("submit")], box, tmp_path)
    text = (tmp_path / "trajectory.jsonl").read_text()
    seen = json.loads(text.splitlines()[2])["message"]["content"]
    assert seen.startswith("first\n1\n") and seen.endswith("last\n[exit 0]")
    assert "characters left out" in seen and len(seen) < 10_100
