"""The loop: ask the model, run its command, show it the output, until the conversation ends."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from kvci.agent.client import Client
from kvci.agent.conversation import Answer, Conversation
from kvci.agent.ends import Ended, FormatError
from kvci.agent.protocol import PROTOCOLS, Message
from kvci.awake import awake_s
from kvci.chain import Chain
from kvci.files import sha256_of
from kvci.sandbox import DiffFailed, Limits, Sandbox, SandboxFailed
from kvci.spec import Spec
from kvci.taxonomy import Exit

OBSERVATION_CHARS = 10_000
PROMPTS = Environment(
    loader=PackageLoader("kvci.agent", "prompts"),
    undefined=StrictUndefined,
    keep_trailing_newline=True,
)


@dataclass(frozen=True)
class Place:
    """The client, sandbox, slot and files of one trial."""

    client: Client
    sandbox: Sandbox
    slot: int
    trajectory: Path
    on_answer: Callable[[int], None] = lambda tokens: None
    """The function to call after each answer, with the answer's number of tokens."""
    tests: tuple[str, ...] = ()
    """The paths of the instance's own tests. The patch leaves them out."""


def converse(spec: Spec, issue: str, name: str, seed: int, place: Place) -> Conversation:
    """Hold the conversation of one trial, and return its result.

    After every end except a sandbox failure, the patch is the diff of the working tree. The patch
    is empty if the diff cannot be made. The last line of the trajectory has the patch's digest.
    """
    conversation = Conversation()
    started = awake_s()
    place.trajectory.parent.mkdir(parents=True, exist_ok=True)
    with place.trajectory.open("w") as file:
        log = Chain(file)
        try:
            _turns(spec, issue, name, seed, place, conversation, log, started + spec.trial_s)
        except Ended as end:
            conversation.exit, conversation.detail = end.exit, end.detail
        except SandboxFailed as error:
            conversation.exit, conversation.detail = Exit.SANDBOX_FAILED, str(error)
        if conversation.exit is not Exit.SANDBOX_FAILED:
            _diff(place, conversation)
        log.append(_end(conversation))
    conversation.trajectory_sha256 = log.digest
    conversation.wall_s = awake_s() - started
    return conversation


def opening(prompt: str, issue: str, seed: int) -> dict[str, Any]:
    """Return the first line of a trajectory: the message that asks for a fix, and the seed."""
    text = PROMPTS.get_template(f"{prompt}.j2").render(issue=issue)
    return {"message": {"role": "user", "content": text}, "seed": seed}


def _diff(place: Place, conversation: Conversation) -> None:
    try:
        conversation.patch = place.sandbox.diff(place.tests)
    except DiffFailed as error:
        conversation.detail = f"no patch: {error}"
    except SandboxFailed as error:
        conversation.exit, conversation.detail = Exit.SANDBOX_FAILED, str(error)


def _end(conversation: Conversation) -> dict[str, Any]:
    return {
        "exit": conversation.exit,
        "detail": conversation.detail,
        "patch_sha256": sha256_of(conversation.patch),
        "patch_bytes": len(conversation.patch),
    }


def _turns(
    spec: Spec,
    issue: str,
    name: str,
    seed: int,
    place: Place,
    conversation: Conversation,
    log: Chain,
    deadline: float,
) -> None:
    protocol, first = PROTOCOLS[spec.prompt], opening(spec.prompt, issue, seed)
    messages: list[Message] = [first["message"]]
    log.append(first)
    while True:
        conversation.check_limits(spec)
        left_s = deadline - awake_s()
        if left_s <= 0:
            raise Ended(Exit.TIME_LIMIT, f"{spec.trial_s} s")
        conversation.steps += 1
        message: Message = {"role": "assistant", "content": ""}
        try:
            asked_at = time.time()
            answer = place.client.ask(_request(spec, messages, name, seed, place.slot), left_s)
            message = answer.message
            conversation.count(answer)
            place.on_answer(answer.answer_tokens)
            log.append(_step(conversation, answer, asked_at))
            action = conversation.action(answer, spec)
        except FormatError as error:
            seen = str(error)
            conversation.reject(seen)
        else:
            conversation.act(action)
            seen = _observe(spec, place.sandbox, action, deadline)
        observation = protocol.observation(message, seen)
        log.append({"message": observation})
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


def _observe(spec: Spec, sandbox: Sandbox, action: str, deadline: float) -> str:
    wall_s = max(0.1, min(spec.command_s, deadline - awake_s()))
    done = sandbox.run(action, Limits(wall_s=wall_s))
    text = done.output.decode(errors="replace")
    if len(text) > OBSERVATION_CHARS:
        half = OBSERVATION_CHARS // 2
        left_out = len(text) - 2 * half
        text = f"{text[:half]}\n[{left_out} characters left out]\n{text[-half:]}"
    how = f"timed out after {wall_s:.0f} s" if done.timed_out else f"exit {done.code}"
    return f"{text}[{how}]"


def _step(conversation: Conversation, answer: Answer, asked_at: float) -> dict[str, Any]:
    return {
        "step": conversation.steps,
        "asked": asked_at,
        "answered": time.time(),
        "message": answer.message,
        "cut": answer.cut,
        "prompt_tokens": answer.prompt_tokens,
        "answer_tokens": answer.answer_tokens,
        "timings": answer.timings,
    }
