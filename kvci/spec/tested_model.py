"""The model under test."""

from typing import Annotated, Literal

from pydantic import field_validator, model_validator

from kvci.problems import matching
from kvci.versioned import Versioned

NAME = r"[a-z0-9][a-z0-9._-]*"
NAME_RULE = "use small letters, digits and . _ -, and start with a letter or a digit"


class Model(Versioned):
    """The model under test. Its file is at a path, in a Python package, or on the Hugging Face hub.

    A file of the hub is identified by its sha256.
    """

    name: Annotated[str, matching(NAME, NAME_RULE)]
    path: str | None = None
    package: str | None = None
    """`module:function` of a Python package with the file; the function returns its path."""
    repository: str | None = None
    file: str | None = None
    revision: str | None = None
    """The repository's revision; if absent, its main branch. kvci always checks the sha256."""
    sha256: Annotated[str, matching("[0-9a-f]{64}", "write 64 hexadecimal digits")] | None = None
    weights: str = ""
    chat_template: str | None = None
    """Jinja text, or `chatml`; if absent, the model's own template."""
    reasoning: Literal["off", "auto"] = "off"

    @field_validator("chat_template")
    @classmethod
    def _jinja(cls, template: str | None) -> str | None:
        """Refuse a name except `chatml`: with --jinja, llama-server would use it as a template."""
        if template and template != "chatml" and "{" not in template:
            raise ValueError(f"'{template}' is not a chat template; give Jinja text or chatml")
        return template

    @model_validator(mode="after")
    def _one_source(self) -> "Model":
        sources = [s for s in (self.path, self.package, self.repository) if s]
        if len(sources) != 1:
            raise ValueError("give exactly one of path, package and repository for the model")
        if self.repository and not (self.file and self.sha256):
            raise ValueError("a model of a repository needs file and sha256; give both")
        return self
