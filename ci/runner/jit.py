"""Ask GitHub for the configuration of a runner that takes one job.

systemd runs this script as root before each job. The script reads the token, and writes a
configuration that is valid for only one job and that only the runner's user can read. If GitHub
refuses, the script fails, and systemd runs it again.
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

from steps import Failed, Step, apply, arguments, removal

ETC, OUTPUT, USER = Path("/etc/kvci"), Path("/run/kvci-runner/jit"), "kvci"
REMEDIES = {
    401: "the token in /etc/kvci/token is not valid or has expired; create a new one",
    403: "the token lacks the repository permission Administration: write; create one with it",
    404: "the token cannot see the repository of /etc/kvci/runner.json; correct one of the files",
}


def configuration(etc: Path) -> str:
    """Return GitHub's encoded configuration for one job.

    Raises Failed with a remedy if GitHub refuses or does not answer.
    """
    settings: dict[str, Any] = json.loads((etc / "runner.json").read_text())
    body = {
        "name": f"{socket.gethostname()[:40]}-{secrets.token_hex(4)}",
        "runner_group_id": 1,
        "labels": settings["labels"],
        "work_folder": "_work",
    }
    request = urllib.request.Request(
        f"{settings['api']}/repos/{settings['repository']}/actions/runners/generate-jitconfig",
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
        remedy = REMEDIES.get(error.code, "systemd retries")
        raise Failed(f"GitHub answered {error.code}: {remedy}.") from None
    except OSError as error:
        raise Failed(f"GitHub does not answer ({error}); systemd retries.") from None
    return found


def main() -> None:
    given = arguments(__doc__).parse_args()
    etc = Path(os.environ.get("KVCI_ETC", ETC))
    output = Path(os.environ.get("KVCI_JIT", OUTPUT))
    written: list[bool] = []  # starts empty, because the file of an earlier job does not count

    def write() -> None:
        line = f"export ACTIONS_RUNNER_INPUT_JITCONFIG={shlex.quote(configuration(etc))}\n"
        removal(output).do()  # a job may have made a link or a folder there
        # Every user of the machine can read arguments, so the runner reads its environment.
        with os.fdopen(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "w") as out:
            out.write(line)
            if os.geteuid() == 0:
                os.fchown(out.fileno(), pwd.getpwnam(os.environ.get("KVCI_USER", USER)).pw_uid, -1)
        written.append(output.stat().st_mode & 0o777 == 0o400)

    step = Step(f"{output}, for one job", lambda: any(written), write, "ask GitHub for it")
    apply([step], given.dry_run)


if __name__ == "__main__":
    main()
