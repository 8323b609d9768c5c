"""The model under test."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from kvci.versioned import Versioned


class Model(Versioned):
    """The model under test: a file here, or a hub's file known by its sha256."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    path: str | None = None
    package: str | None = None
    """A Python package that contains the file, as `module:function`, which returns its path."""
    repository: str | None = None
    file: str | None = None
    revision: str | None = None
    """The repository's revision; its main branch if absent. The sha256 is checked in any case."""
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    weights: str = ""
    chat_template: str | None = None
    """Jinja text, or `chatml`; the model's own if absent."""
    reasoning: Literal["off", "auto"] = "off"

    @field_validator("chat_template")
    @classmethod
    def _jinja(cls, template: str | None) -> str | None:
        """With --jinja, llama-server uses every other name as the text of a template."""
        if template and template != "chatml" and "{" not in template:
            raise ValueError(f"'{template}' is not a chat template; give Jinja text or chatml")
        return template

    @model_validator(mode="after")
    def _one_source(self) -> "Model":
        sources = [s for s in (self.path, self.package, self.repository) if s]
        if len(sources) != 1:
            raise ValueError("give exactly one of path, package and repository for the model")
        if self.repository and not (self.file and self.sha256):
            raise ValueError("a model of a repository needs its file and sha256")
        return self
