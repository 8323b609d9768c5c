"""One conversation: its counts, and the rules that decide how it continues or ends.

The loop follows these rules while a trial runs. A review applies the same rules to the stored
answers, and so finds out whether the conversation ended as its outcome says.
"""

from dataclasses import dataclass, field
from typing import Any

from kvci.agent.ends import Ended
from kvci.agent.protocol import PROTOCOLS, Message
from kvci.spec import Spec
from kvci.taxonomy import Exit, repeats

IN_A_ROW_MAX = 3
SUBMIT = "submit"


@dataclass(frozen=True)
class Answer:
    message: Message
    cut: bool
    """True if the token limit ended the answer."""
    prompt_tokens: int
    answer_tokens: int
    timings: dict[str, Any]


@dataclass
class Conversation:
    """The result of a conversation. Its numbers are sums over the steps, except `depth_tokens`."""

    exit: Exit = Exit.KVCI_FAILED
    detail: str = ""
    patch: bytes = b""
    steps: int = 0
    prefill_tokens: int = 0
    prefill_s: float = 0.0
    answer_tokens: int = 0
    decode_s: float = 0.0
    depth_tokens: int = 0
    """The largest context, prompt and answer together."""
    loops: int = 0
    """The number of steps at which the last actions were repetitions."""
    malformed: int = 0
    malformed_in_a_row: int = 0
    cut_in_a_row: int = 0
    wall_s: float = 0.0
    actions: list[str] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)
    """The text and the tool calls of each answer, without the fields that the server adds."""
    trajectory_sha256: str = ""
    """The digest of the trajectory's last line. Through it, each line depends on all lines before.
    """

    def check_limits(self, spec: Spec) -> None:
        """Raise Ended if the conversation may have no further step."""
        if self.steps >= spec.max_steps:
            raise Ended(Exit.STEP_LIMIT, f"{self.steps} steps")
        if spec.max_total_tokens and self.answer_tokens >= spec.max_total_tokens:
            raise Ended(Exit.TOKEN_LIMIT, f"{self.answer_tokens} tokens")

    def count(self, answer: Answer) -> None:
        """Add an answer to the counts."""
        calls = [call["function"] for call in answer.message.get("tool_calls") or []]
        self.answers.append([answer.message["content"], calls])
        self.answer_tokens += answer.answer_tokens
        self.prefill_tokens += int(answer.timings.get("prompt_n", 0))
        self.prefill_s += answer.timings.get("prompt_ms", 0.0) / 1000
        self.decode_s += answer.timings.get("predicted_ms", 0.0) / 1000
        self.depth_tokens = max(self.depth_tokens, answer.prompt_tokens + answer.answer_tokens)

    def action(self, answer: Answer, spec: Spec) -> str:
        """Return the one action of an answer.

        Raises FormatError if it does not have exactly one. Raises Ended at the third cut answer in
        a row, or if the end of the context cut the answer.
        """
        self.cut_in_a_row = self.cut_in_a_row + 1 if answer.cut else 0
        if answer.cut and answer.answer_tokens < spec.max_tokens:
            raise Ended(Exit.CONTEXT_OVERFLOW, "an answer reached the end of the context")
        if self.cut_in_a_row == IN_A_ROW_MAX:
            raise Ended(Exit.ANSWER_LIMIT, f"{IN_A_ROW_MAX} answers of {spec.max_tokens} tokens")
        found = PROTOCOLS[spec.prompt].action(answer.message)
        self.malformed_in_a_row = 0
        return found

    def reject(self, why: str) -> None:
        """Count an answer without exactly one action. Raises Ended at the third in a row."""
        self.malformed += 1
        self.malformed_in_a_row += 1
        if self.malformed_in_a_row == IN_A_ROW_MAX:
            raise Ended(Exit.FORMAT_ERRORS, why)

    def act(self, action: str) -> None:
        """Count an action. Raises Ended if it submits, or if it is the third equal one in a row."""
        self.actions.append(action)
        self.loops += repeats(tuple(self.actions))
        if action == SUBMIT:
            raise Ended(Exit.SUBMITTED)
        if self.actions[-IN_A_ROW_MAX:] == [action] * IN_A_ROW_MAX:
            raise Ended(Exit.LOOP, f"{IN_A_ROW_MAX} times: {action}")
