"""The loop: query, act, observe, until something ends it."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from kvci.agent.client import Answer, Client
from kvci.agent.ends import Ended, FormatError
from kvci.agent.protocol import PROTOCOLS, Message
from kvci.sandbox import DiffFailed, Limits, Sandbox, SandboxFailed
from kvci.spec import Spec
from kvci.taxonomy import Exit, repeats

IN_A_ROW_MAX = 3
OBSERVATION_CHARS = 10_000
SUBMIT = "submit"
PROMPTS = Environment(
    loader=PackageLoader("kvci.agent", "prompts"),
    undefined=StrictUndefined,
    keep_trailing_newline=True,
)


@dataclass
class Conversation:
    """What a conversation came to; sums over its steps."""

    exit: Exit = Exit.KVCI_FAILED
    detail: str = ""
    patch: bytes = b""
    steps: int = 0
    prefill_tokens: int = 0
    prefill_s: float = 0.0
    answer_tokens: int = 0
    decode_s: float = 0.0
    depth_tokens: int = 0
    """The deepest context reached, prompt and answer."""
    loops: int = 0
    """Steps at which the last actions repeated."""
    malformed: int = 0
    wall_s: float = 0.0
    actions: list[str] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)
    """What the model said, without what the server adds."""


@dataclass(frozen=True)
class Place:
    """Where one trial runs."""

    client: Client
    sandbox: Sandbox
    slot: int
    trajectory: Path
    heard: Callable[[int], None] = lambda tokens: None
    """Told the tokens of each answer."""
    tests: tuple[str, ...] = ()
    """Paths that are no part of a patch: the instance's own tests."""


def converse(spec: Spec, issue: str, name: str, seed: int, place: Place) -> Conversation:
    """One trial's conversation. Whatever ends it, the patch is the tree's diff, if there is one."""
    talk = Conversation()
    started = time.monotonic()
    place.trajectory.parent.mkdir(parents=True, exist_ok=True)
    with place.trajectory.open("w") as log:
        try:
            _turns(spec, issue, name, seed, place, talk, log, started + spec.trial_s)
        except Ended as end:
            talk.exit, talk.detail = end.exit, end.detail
        except SandboxFailed as error:
            talk.exit, talk.detail = Exit.SANDBOX_FAILED, str(error)
        _append(log, {"exit": talk.exit, "detail": talk.detail})
    if talk.exit is not Exit.SANDBOX_FAILED:
        try:
            talk.patch = place.sandbox.diff(place.tests)
        except DiffFailed as error:
            talk.detail = f"no patch: {error}"
        except SandboxFailed as error:
            talk.exit, talk.detail = Exit.SANDBOX_FAILED, str(error)
    talk.wall_s = time.monotonic() - started
    return talk


def _turns(
    spec: Spec,
    issue: str,
    name: str,
    seed: int,
    place: Place,
    talk: Conversation,
    log: IO[str],
    deadline: float,
) -> None:
    protocol = PROTOCOLS[spec.prompt]
    prompt = PROMPTS.get_template(f"{spec.prompt}.j2").render(issue=issue)
    messages: list[Message] = [{"role": "user", "content": prompt}]
    _append(log, {"message": messages[0], "seed": seed})
    cut = malformed = 0
    while True:
        if talk.steps >= spec.max_steps:
            raise Ended(Exit.STEP_LIMIT, f"{talk.steps} steps")
        if spec.max_total_tokens and talk.answer_tokens >= spec.max_total_tokens:
            raise Ended(Exit.TOKEN_LIMIT, f"{talk.answer_tokens} tokens")
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise Ended(Exit.TIME_LIMIT, f"{spec.trial_s} s")
        talk.steps += 1
        message: Message = {"role": "assistant", "content": ""}
        try:
            asked = time.time()
            answer = place.client.ask(_request(spec, messages, name, seed, place.slot), left_s)
            message = answer.message
            calls = [call["function"] for call in message.get("tool_calls") or []]
            talk.answers.append([message["content"], calls])
            _count(talk, answer)
            place.heard(answer.answer_tokens)
            _append(log, _step(talk, answer, asked))
            cut = _cut_in_a_row(spec, answer, cut)
            action = protocol.action(message)
            malformed = 0
        except FormatError as error:
            talk.malformed += 1
            malformed += 1
            if malformed == IN_A_ROW_MAX:
                raise Ended(Exit.FORMAT_ERRORS, str(error)) from None
            seen = str(error)
        else:
            talk.actions.append(action)
            talk.loops += repeats(tuple(talk.actions))
            if action == SUBMIT:
                raise Ended(Exit.SUBMITTED)
            if talk.actions[-IN_A_ROW_MAX:] == [action] * IN_A_ROW_MAX:
                raise Ended(Exit.LOOP, f"{IN_A_ROW_MAX} times: {action}")
            seen = _observe(spec, place.sandbox, action, deadline)
        observation = protocol.observation(message, seen)
        _append(log, {"message": observation})
        messages += [message, observation]


def _request(
    spec: Spec, messages: list[Message], name: str, seed: int, slot: int
) -> dict[str, Any]:
    request: dict[str, Any] = {
        "model": spec.model.name,
        "messages": messages,
        "temperature": spec.temperature,
        "max_tokens": spec.max_tokens,
        "seed": seed,
        "user": name,
        "extra_body": {"id_slot": slot, "cache_prompt": True},
    }
    tools = PROTOCOLS[spec.prompt].tools
    return request | ({"tools": tools} if tools else {})


def _count(talk: Conversation, answer: Answer) -> None:
    talk.answer_tokens += answer.answer_tokens
    talk.prefill_tokens += int(answer.timings.get("prompt_n", 0))
    talk.prefill_s += answer.timings.get("prompt_ms", 0.0) / 1000
    talk.decode_s += answer.timings.get("predicted_ms", 0.0) / 1000
    talk.depth_tokens = max(talk.depth_tokens, answer.prompt_tokens + answer.answer_tokens)


def _cut_in_a_row(spec: Spec, answer: Answer, before: int) -> int:
    """Raises Ended at the third cut answer, or when it was the context that ended one."""
    if not answer.cut:
        return 0
    if answer.answer_tokens < spec.max_tokens:
        raise Ended(Exit.CONTEXT_OVERFLOW, "an answer reached the end of the context")
    if before + 1 == IN_A_ROW_MAX:
        raise Ended(Exit.ANSWER_LIMIT, f"{IN_A_ROW_MAX} answers of {spec.max_tokens} tokens")
    return before + 1


def _observe(spec: Spec, sandbox: Sandbox, action: str, deadline: float) -> str:
    wall_s = max(0.1, min(spec.command_s, deadline - time.monotonic()))
    done = sandbox.run(action, Limits(wall_s=wall_s))
    text = done.output.decode(errors="replace")
    if len(text) > OBSERVATION_CHARS:
        half = OBSERVATION_CHARS // 2
        left_out = len(text) - 2 * half
        text = f"{text[:half]}\n[{left_out} characters left out]\n{text[-half:]}"
    how = f"timed out after {wall_s:.0f} s" if done.timed_out else f"exit {done.code}"
    return f"{text}[{how}]"


def _step(talk: Conversation, answer: Answer, asked: float) -> dict[str, Any]:
    return {
        "step": talk.steps,
        "asked": asked,
        "answered": time.time(),
        "message": answer.message,
        "cut": answer.cut,
        "prompt_tokens": answer.prompt_tokens,
        "answer_tokens": answer.answer_tokens,
        "timings": answer.timings,
    }


def _append(log: IO[str], entry: dict[str, Any]) -> None:
    log.write(json.dumps(entry) + "\n")
    log.flush()
