"""Ask GitHub for the configuration of a runner that takes one job.

Run by systemd as root before each job: it reads the token, and leaves the runner's user what is
good for one job alone. Fails where GitHub refuses; systemd tries again.
"""

import json
import os
import pwd
import secrets
import shlex
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from steps import Failed, Step, arguments, take

ETC, TO, USER = Path("/etc/kvci"), Path("/run/kvci-runner/jit"), "kvci"
REMEDIES = {
    401: "the token in /etc/kvci/token is not valid or has run out; make another",
    403: "the token lacks the repository permission Administration: write",
    404: "the repository of /etc/kvci/runner.json is not there for this token",
}


def configuration(etc: Path) -> str:
    """As the runner takes it. Raises Failed with the remedy."""
    asked: dict[str, Any] = json.loads((etc / "runner.json").read_text())
    body = {
        "name": f"{socket.gethostname()[:40]}-{secrets.token_hex(4)}",
        "runner_group_id": 1,
        "labels": asked["labels"],
        "work_folder": "_work",
    }
    request = urllib.request.Request(
        f"{asked['api']}/repos/{asked['repository']}/actions/runners/generate-jitconfig",
        json.dumps(body).encode(),
        {
            "Authorization": f"Bearer {(etc / 'token').read_text().strip()}",
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": "2022-11-28",
            "Content-Type": "application/json",
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: str = json.load(answer)["encoded_jit_config"]
    except urllib.error.HTTPError as error:
        remedy = REMEDIES.get(error.code, "it is tried again")
        raise Failed(f"GitHub answered {error.code}: {remedy}.") from None
    except OSError as error:
        raise Failed(f"GitHub does not answer ({error}); it is tried again.") from None
    return found


def main() -> None:
    given = arguments(__doc__).parse_args()
    etc = Path(os.environ.get("KVCI_ETC", ETC))
    to = Path(os.environ.get("KVCI_JIT", TO))
    made: list[bool] = []  # an earlier job's is none for this one

    def make() -> None:
        line = f"export ACTIONS_RUNNER_INPUT_JITCONFIG={shlex.quote(configuration(etc))}\n"
        to.unlink(missing_ok=True)
        # In the environment and not among the arguments, which every user of the machine can read.
        with os.fdopen(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "w") as out:
            out.write(line)
            if os.geteuid() == 0:
                os.fchown(out.fileno(), pwd.getpwnam(os.environ.get("KVCI_USER", USER)).pw_uid, -1)
        made.append(to.stat().st_mode & 0o777 == 0o400)

    step = Step(f"{to}, for one job", lambda: any(made), make, "ask GitHub for it")
    take([step], given.dry_run)


if __name__ == "__main__":
    main()
