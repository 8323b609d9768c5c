"""Send one request to the server. Each failure becomes an end of the conversation."""

from collections.abc import Callable
from typing import Any

import openai

from kvci.agent.conversation import Answer
from kvci.agent.ends import Ended, FormatError
from kvci.taxonomy import Exit

SENT_MAX = 3


class Client:
    """A client of one server. `healthy` returns True if the server works after a failed request."""

    def __init__(self, url: str, healthy: Callable[[], bool]) -> None:
        self._api = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        self._healthy = healthy

    def ask(self, request: dict[str, Any], timeout_s: float) -> Answer:
        """Return the server's answer.

        Raises Ended if the context overflows or the request fails. Raises FormatError if the server
        could not parse what the model wrote.
        """
        create = self._api.chat.completions.create
        for sent in range(1, SENT_MAX + 1):
            try:
                return _answer(create(**request, timeout=timeout_s))
            except openai.BadRequestError as error:
                if "exceed_context_size" in error.response.text:
                    raise Ended(Exit.CONTEXT_OVERFLOW, error.response.text[:500]) from None
                raise Ended(Exit.REQUEST_FAILED, str(error)) from None
            except openai.APITimeoutError as error:
                exit = Exit.TIME_LIMIT if self._healthy() else Exit.SERVER_FAILED
                raise Ended(exit, str(error)) from None
            except openai.APIConnectionError as error:
                raise Ended(Exit.SERVER_FAILED, str(error)) from None
            except openai.APIStatusError as error:
                if "parse" in error.response.text.lower():
                    raise FormatError("The answer could not be parsed.") from None
                if not self._healthy():
                    raise Ended(Exit.SERVER_FAILED, str(error)) from None
                if sent == SENT_MAX:
                    raise Ended(Exit.REQUEST_FAILED, str(error)) from None
        raise AssertionError("unreachable")


def _answer(completion: Any) -> Answer:
    choice = completion.choices[0]
    message = choice.message.model_dump(
        exclude_none=True, include={"role", "content", "tool_calls"}
    )
    message.setdefault("content", "")
    return Answer(
        message=message,
        cut=choice.finish_reason == "length",
        prompt_tokens=completion.usage.prompt_tokens,
        answer_tokens=completion.usage.completion_tokens,
        timings=dict((completion.model_extra or {}).get("timings") or {}),
    )
