"""One server configuration under test."""

import re
import shlex
from typing import Literal

from pydantic import ValidationError, field_validator

from kvci.problems import first_problem
from kvci.versioned import Versioned

KV_BLOCK_ELEMENTS = {
    "f32": 1,
    "f16": 1,
    "bf16": 1,
    "q8_0": 32,
    "q5_1": 32,
    "q5_0": 32,
    "q4_1": 32,
    "q4_0": 32,
    "iq4_nl": 32,
}
"""KV type that llama-server accepts -> elements of one block (llama.cpp common/arg.cpp)."""

ARM_FLAGS = {
    "-b", "--batch-size", "-ub", "--ubatch-size", "-t", "--threads", "-tb", "--threads-batch",
    "-ngl", "--gpu-layers", "-nkvo", "--no-kv-offload", "-sm", "--split-mode", "-ts",
    "--tensor-split", "-mg", "--main-gpu", "-dev", "--device", "-ot", "--override-tensor",
    "-cmoe", "--cpu-moe", "-ncmoe", "--n-cpu-moe", "-fa", "--flash-attn", "--swa-full",
    "--no-mmap", "--mlock", "--numa", "--poll", "--prio",
}  # fmt: skip
"""The flags that an arm may set. They say where and in which order llama-server computes. kvci
chooses all other flags itself, because they would change the model, the prompt, the sampling or the
contents of the cache."""


class Arm(Versioned):
    """One server configuration under test: a KV type, and flags that an experiment adds."""

    k: str
    v: str
    flags: tuple[str, ...] = ()
    allow: tuple[Literal["converted", "cpu"], ...] = ()
    """The kernel paths that this arm may use on a GPU build, in addition to `compiled`."""

    @classmethod
    def parse(cls, text: str) -> "Arm":
        """Read `K/V [FLAGS...] [allow=PATH]`, for example `f16/f16 -ub 32`.

        Raises ValueError if the text is not an arm.
        """
        kv, *words = shlex.split(text) or [""]
        k, slash, v = kv.partition("/")
        if not slash:
            raise ValueError(f"'{kv}' is not a KV type; write K/V, for example q8_0/q8_0")
        allow = tuple(word[6:] for word in words if word.startswith("allow="))
        flags = tuple(word for word in words if not word.startswith("allow="))
        try:
            return cls.model_validate({"k": k, "v": v, "flags": flags, "allow": allow})
        except ValidationError as error:  # the text has no fields k, v and flags, so name none
            raise ValueError(re.sub("^(k|v|flags): ", "", first_problem(error))) from None

    @field_validator("k", "v")
    @classmethod
    def _known(cls, kind: str) -> str:
        if kind not in KV_BLOCK_ELEMENTS:
            raise ValueError(
                f"'{kind}' is not a KV type of llama-server; use one of "
                + " ".join(KV_BLOCK_ELEMENTS)
            )
        return kind

    @field_validator("flags")
    @classmethod
    def _allowed(cls, flags: tuple[str, ...]) -> tuple[str, ...]:
        for flag in flags:
            number = re.fullmatch(r"-?[\d.,]+", flag)
            if flag.startswith("-") and not number and flag not in ARM_FLAGS:
                raise ValueError(
                    f"an arm may not set {flag}; use only "
                    + " ".join(sorted(flag for flag in ARM_FLAGS if not flag.startswith("--")))
                )
        return flags

    @property
    def kv_type(self) -> str:
        return f"{self.k}/{self.v}"

    @property
    def id(self) -> str:
        """The arm's name in the characters [a-z0-9_+.-]: `q8_0-q8_0`, `f16-f16+ub32`."""
        extra = re.sub(r"[^a-z0-9_.]", "", " ".join(self.flags).lower().replace("--", ""))
        return f"{self.k}-{self.v}" + (f"+{extra}" if extra else "")
