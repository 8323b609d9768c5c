"""The embedded engine: xllamacpp's native server, with llama-server's own flags.

Run it as `python -m kvci.serve.embedded FLAGS`. It ignores no flag: if it does not know a flag, it
prints an error and ends.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import xllamacpp as xl

KV_TYPES = {
    kind: getattr(xl.ggml_type, f"GGML_TYPE_{kind.upper()}")
    for kind in ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
}
"""llama-server's name of a KV type -> the library's constant for the type.

`spec.KV_BLOCK_ELEMENTS` has the same names.
"""
FLASH = {
    "on": xl.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": xl.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED,
    "auto": xl.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_AUTO,
}


def _log_to(path: str) -> None:
    """Send stderr to a file, because the library logs to stderr."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 2)


def _threads(params: Any, value: str) -> None:
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(value)


def _model(params: Any, value: str) -> None:
    params.model.path = value


def _speculation(_: Any, value: str) -> None:
    if value != "none":
        raise ValueError(value)


def _reasoning(params: Any, value: str) -> None:
    params.enable_reasoning = 0 if int(value) == 0 else -1


def _set(name: str, read: Callable[[str], Any]) -> Callable[[Any, str], None]:
    return lambda params, value: setattr(params, name, read(value))


VALUES: dict[str, Callable[[Any, str], None]] = {
    "-m": _model,
    "-ngl": _set("n_gpu_layers", int),
    "-fit": _set("fit_params", lambda value: value == "on"),
    "-fa": _set("flash_attn_type", FLASH.__getitem__),
    "-ctk": _set("cache_type_k", KV_TYPES.__getitem__),
    "-ctv": _set("cache_type_v", KV_TYPES.__getitem__),
    "-c": _set("n_ctx", int),
    "-np": _set("n_parallel", int),
    "-b": _set("n_batch", int),
    "-ub": _set("n_ubatch", int),
    "-t": _threads,
    "--cache-reuse": _set("n_cache_reuse", int),
    "-cram": _set("cache_ram_mib", int),
    "--spec-type": _speculation,
    "--slot-save-path": _set("slot_save_path", str),
    "--chat-template": _set("chat_template", str),
    "--reasoning-budget": _reasoning,
    "-lv": _set("verbosity", int),
    "--log-file": lambda _, value: _log_to(value),
    "--host": lambda params, value: setattr(params, "hostnames", [value]),
    "--port": _set("port", int),
}
SWITCHES: dict[str, tuple[str, bool]] = {
    "-no-kvu": ("kv_unified", False),
    "-kvu": ("kv_unified", True),
    "--no-context-shift": ("ctx_shift", False),
    "--no-cache-idle-slots": ("cache_idle_slots", False),
    "--jinja": ("use_jinja", True),
    "--metrics": ("endpoint_metrics", True),
    "--slots": ("endpoint_slots", True),
}


def parameters(flags: list[str]) -> Any:
    """Return xllamacpp's parameters for llama-server's flags.

    Raises ValueError if the embedded engine does not accept a flag or its value.
    """
    params = xl.CommonParams()
    words = iter(flags)
    for flag in words:
        if flag in SWITCHES:
            setattr(params, *SWITCHES[flag])
        elif flag in VALUES:
            value = next(words, "")
            try:
                VALUES[flag](params, value)
            except (KeyError, ValueError):
                raise ValueError(
                    f"error while handling argument {flag}: the embedded engine does not "
                    f"accept '{value}'"
                ) from None
        else:
            raise ValueError(f"the embedded engine does not know the flag {flag}")
    return params


def main() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        server = xl.Server(parameters(sys.argv[1:]))
    except (ValueError, RuntimeError) as error:
        print(f"E embedded engine: {error}", file=sys.stderr)
        sys.exit(1)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    del server


if __name__ == "__main__":
    main()
