"""Build the llama-server command line of one arm.

Every setting that could differ between arms has a fixed value, except those of the arm itself.
"""

from pathlib import Path

from kvci.spec import Arm, Spec


def server_flags(spec: Spec, arm: Arm, model: Path, port: int, log: Path, slots: Path) -> list[str]:
    """Return the flags that follow the program's name.

    `slots` is the folder for saved slots. llama-server erases a slot only if it has such a folder.
    """
    flags = [
        "-m", str(model), "-ngl", str(spec.gpu_layers), "-fit", "off", "-fa", "on",
        "-ctk", arm.k, "-ctv", arm.v, "-c", str(spec.context * spec.slots),
        "-np", str(spec.slots), "-no-kvu", "--no-context-shift", "--cache-reuse", "0",
        "-cram", "0", "--no-cache-idle-slots", "--spec-type", "none", "--jinja",
        "--metrics", "--slots", "--slot-save-path", f"{slots}/", "-lv", "4",
        "--log-file", str(log), "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    if "-b" not in arm.flags:
        flags += ["-b", "2048"]
    if "-ub" not in arm.flags:
        flags += ["-ub", "512"]
    if spec.threads:
        flags += ["-t", str(spec.threads)]
    if spec.model.chat_template:
        flags += ["--chat-template", spec.model.chat_template]
    if spec.model.reasoning == "off":
        flags += ["--reasoning-budget", "0"]
    return flags + list(arm.flags)
