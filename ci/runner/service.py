"""Install the runner's service on a machine that box.py prepared.

    sudo python3 ci/runner/service.py --repository OWNER/NAME --archive actions-runner-*.tar.gz \\
        --sha256 SUM --dry-run

The runner takes one job at a time. For each job, systemd copies the runner's files again, and
starts the runner with a configuration that GitHub makes for this one job. The token for this
request is in /etc/kvci/token, which only root can read. But a user of Docker can become root. So
let only people start jobs here to whom you would give the token.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
from pathlib import Path

from steps import Failed, Step, apply, arguments, file, run

HERE = Path(__file__).resolve().parent
ETC, OPT, UNITS = Path("/etc/kvci"), Path("/opt/kvci"), Path("/etc/systemd/system")
SCRIPTS = ("steps.py", "jit.py", "hook.py", "clean.py")
HOOK = "#!/bin/sh\nexec timeout 1h /usr/bin/python3 /opt/kvci/runner/hook.py\n"
RUNNER = """[Unit]
Description=GitHub Actions runner for kvci, one job at a time
StartLimitIntervalSec=0
Wants=network-online.target
After=network-online.target docker.service

[Service]
User=kvci
WorkingDirectory=/var/lib/kvci
RuntimeDirectory=kvci-runner
RuntimeDirectoryMode=0700
Environment=ACTIONS_RUNNER_HOOK_JOB_STARTED=/opt/kvci/runner/job-started.sh
Environment=KVCI_RUNS=/var/lib/kvci/runs
Environment=KVCI_LLAMA_SERVER=/opt/kvci/bin/llama-server
EnvironmentFile=-/etc/kvci/environment
ExecStartPre=+/bin/rm -rf /var/lib/kvci/actions-runner
ExecStartPre=/bin/cp -R /opt/kvci/actions-runner /var/lib/kvci/actions-runner
ExecStartPre=+/usr/bin/python3 /opt/kvci/runner/jit.py
ExecStart=/bin/sh -c '. /run/kvci-runner/jit && exec /var/lib/kvci/actions-runner/run.sh'
Delegate=yes
TimeoutStartSec=15min
Restart=always
RestartSec=30
KillMode=mixed
TimeoutStopSec=60

[Install]
WantedBy=multi-user.target
"""
CLEAN = """[Unit]
Description=Remove kvci runs that have not changed for long

[Service]
Type=oneshot
User=kvci
TimeoutStartSec=6h
ExecStart=/usr/bin/python3 /opt/kvci/runner/clean.py --runs /var/lib/kvci/runs
"""
TIMER = """[Unit]
Description=Remove old kvci runs daily

[Timer]
OnCalendar=daily
Persistent=true

[Install]
WantedBy=timers.target
"""


def unpacked(archive: Path, sha256: str) -> Step:
    """Return the step that checks the archive, and unpacks the runner's files as root's files."""
    target = OPT / "actions-runner"
    mark = target / ".sha256"

    def do() -> None:
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != sha256:
            raise Failed(f"{archive} has the SHA-256 {found}, not {sha256}; download it again.")
        part = OPT / "actions-runner.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        run("tar", "--extract", "--file", archive, "--directory", part, "--no-same-owner")
        if not (part / "run.sh").is_file():
            raise Failed(
                f"{archive} has no run.sh; give GitHub's archive actions-runner-linux-x64."
            )
        (part / ".sha256").write_text(sha256)
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)

    return Step(
        f"{target} from {archive.name}", lambda: mark.is_file() and mark.read_text() == sha256, do
    )


def token_is_private() -> bool:
    path = ETC / "token"
    if not path.is_file() or not path.read_text().strip():
        return False
    return path.stat().st_uid == 0 and path.stat().st_mode & 0o777 == 0o600


def no_token() -> None:
    raise Failed(
        f"{ETC / 'token'} is not a file of root with mode 600 that contains a token; write a "
        "GitHub token for this repository, with the permission Administration: write, into it."
    )


def needs_reload(*units: str) -> bool:
    """True if systemd has not read the current file of one of the units.

    If an earlier call of this script was killed, it may have written the file without a reload.
    """
    return "NeedDaemonReload=yes" in run("systemctl", "show", *units, "--property=NeedDaemonReload")


def enabled(unit: str) -> Step:
    def done() -> bool:
        shown = run("systemctl", "show", unit, "--property=UnitFileState,ActiveState").split()
        return "UnitFileState=enabled" in shown and bool(
            {"ActiveState=active", "ActiveState=activating"} & {*shown}
        )

    return Step(f"{unit} is on", done, lambda: _run("systemctl", "enable", "--now", unit))


def main() -> None:
    parser = arguments(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--repository", required=True, help="OWNER/NAME")
    parser.add_argument(
        "--archive", required=True, type=Path, help="the downloaded archive of GitHub's runner"
    )
    parser.add_argument(
        "--sha256", required=True, help="SHA-256 of the archive, as GitHub's page shows it"
    )
    parser.add_argument(
        "--api", default="https://api.github.com", help="GitHub's API [https://api.github.com]"
    )
    parser.add_argument(
        "--labels",
        default="self-hosted,gpu",
        help="the runner's labels, separated by commas [self-hosted,gpu]",
    )
    given = parser.parse_args()
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", given.repository):
        parser.error("--repository must be OWNER/NAME")
    if not re.fullmatch(r"[0-9a-f]{64}", given.sha256):
        parser.error("--sha256 must be 64 hexadecimal digits")
    if os.geteuid() and not given.dry_run:
        parser.error("run this script as root: sudo python3 ci/runner/service.py")
    settings = {
        "api": given.api,
        "repository": given.repository,
        "labels": given.labels.split(","),
    }
    units = {
        "kvci-runner.service": RUNNER,
        "kvci-clean.service": CLEAN,
        "kvci-clean.timer": TIMER,
    }

    def loaded() -> bool:
        written = all(_has_text(UNITS / name, text) for name, text in units.items())
        return written and not needs_reload(*units)

    apply(
        [
            Step(
                "box.py has prepared the machine",
                Path("/var/lib/kvci/runs").is_dir,
                not_prepared,
                "nothing: run ci/runner/box.py first",
            ),
            unpacked(given.archive, given.sha256),
            *(file(OPT / "runner" / name, (HERE / name).read_text()) for name in SCRIPTS),
            file(OPT / "runner" / "job-started.sh", HOOK, 0o755),
            file(ETC / "runner.json", json.dumps(settings, indent=2) + "\n"),
            Step(
                f"{ETC / 'token'}, readable only by root",
                token_is_private,
                no_token,
                "nothing: write the token into this file",
            ),
            *(file(UNITS / name, text) for name, text in units.items()),
            Step(
                "systemd has read the units",
                loaded,
                # This does not restart a job in progress; the next job uses the new units.
                lambda: _run("systemctl", "daemon-reload"),
            ),
            enabled("kvci-clean.timer"),
            enabled("kvci-runner.service"),
        ],
        given.dry_run,
    )


def _has_text(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text() == text


def not_prepared() -> None:
    raise Failed("/var/lib/kvci/runs does not exist; run ci/runner/box.py first.")


def _run(*words: str) -> None:
    run(*words)


if __name__ == "__main__":
    main()
