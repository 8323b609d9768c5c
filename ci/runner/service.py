"""Make a machine that box.py made ready into a runner that takes one job at a time.

    sudo python3 ci/runner/service.py --repository OWNER/NAME --archive actions-runner-*.tar.gz \\
        --sha256 SUM --dry-run

systemd starts the runner for one job, with a configuration that GitHub made just in time for it,
from a fresh copy of the runner's own files, and then again. The token that asks for the
configuration lies in /etc/kvci/token, which root alone can read. Who may use Docker can become
root: let nobody start jobs here whom you would not give that token.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
from pathlib import Path

from steps import Failed, Step, arguments, file, run, take

HERE = Path(__file__).resolve().parent
ETC, OPT, UNITS = Path("/etc/kvci"), Path("/opt/kvci"), Path("/etc/systemd/system")
SCRIPTS = ("steps.py", "jit.py", "hook.py", "clean.py")
HOOK = "#!/bin/sh\nexec /usr/bin/python3 /opt/kvci/runner/hook.py\n"
RUNNER = """[Unit]
Description=One job of GitHub Actions, then the next
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
Restart=always
RestartSec=30
KillMode=mixed
TimeoutStopSec=60

[Install]
WantedBy=multi-user.target
"""
CLEAN = """[Unit]
Description=Remove runs of kvci that nobody has touched for long

[Service]
Type=oneshot
User=kvci
ExecStart=/usr/bin/python3 /opt/kvci/runner/clean.py --runs /var/lib/kvci/runs
"""
TIMER = """[Unit]
Description=Every day

[Timer]
OnCalendar=daily
Persistent=true

[Install]
WantedBy=timers.target
"""


def unpacked(archive: Path, sha256: str) -> Step:
    """The runner's own files, of root, from an archive whose hash its page shows."""
    to = OPT / "actions-runner"
    mark = to / ".sha256"

    def do() -> None:
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != sha256:
            raise Failed(f"{archive} has the SHA-256 {found}, and not {sha256}; fetch it again.")
        part = OPT / "actions-runner.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        run("tar", "--extract", "--file", archive, "--directory", part, "--no-same-owner")
        if not (part / "run.sh").is_file():
            raise Failed(f"{archive} holds no run.sh; give GitHub's actions-runner-linux-x64.")
        (part / ".sha256").write_text(sha256)
        shutil.rmtree(to, ignore_errors=True)
        part.rename(to)

    return Step(
        f"{to} of {archive.name}", lambda: mark.is_file() and mark.read_text() == sha256, do
    )


def token() -> bool:
    path = ETC / "token"
    if not path.is_file() or not path.read_text().strip():
        return False
    return path.stat().st_uid == 0 and path.stat().st_mode & 0o777 == 0o600


def no_token() -> None:
    raise Failed(
        f"{ETC / 'token'} must be root's, mode 600, and hold a token of GitHub's for this "
        "repository with the permission Administration: write; write it there with an editor."
    )


def stale(*units: str) -> bool:
    """systemd knows one of them as it was before its file was written, if only by a call that was
    cut off."""
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
    parser.add_argument("--archive", required=True, type=Path, help="GitHub's runner, as fetched")
    parser.add_argument("--sha256", required=True, help="as the page shows it that names it")
    parser.add_argument("--api", default="https://api.github.com")
    parser.add_argument("--labels", default="self-hosted,gpu", help="with commas between")
    given = parser.parse_args()
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", given.repository):
        parser.error("--repository is OWNER/NAME")
    if not re.fullmatch(r"[0-9a-f]{64}", given.sha256):
        parser.error("--sha256 is 64 hexadecimal digits")
    if os.geteuid() and not given.dry_run:
        parser.error("it has to be root: sudo python3 ci/runner/service.py")
    asked = {
        "api": given.api,
        "repository": given.repository,
        "labels": given.labels.split(","),
    }
    units = {
        "kvci-runner.service": RUNNER,
        "kvci-clean.service": CLEAN,
        "kvci-clean.timer": TIMER,
    }

    def read() -> bool:
        written = all(_is(UNITS / name, text) for name, text in units.items())
        return written and not stale(*units)

    take(
        [
            Step(
                "box.py was here",
                Path("/var/lib/kvci/runs").is_dir,
                _box,
                "nothing: run ci/runner/box.py first",
            ),
            unpacked(given.archive, given.sha256),
            *(file(OPT / "runner" / name, (HERE / name).read_text()) for name in SCRIPTS),
            file(OPT / "runner" / "job-started.sh", HOOK, 0o755),
            file(ETC / "runner.json", json.dumps(asked, indent=2) + "\n"),
            Step(f"{ETC / 'token'}, root's alone", token, no_token, "nothing: write it there"),
            *(file(UNITS / name, text) for name, text in units.items()),
            Step(
                "systemd has read them",
                read,
                # A job that runs is left alone; the next one has them.
                lambda: _run("systemctl", "daemon-reload"),
            ),
            enabled("kvci-clean.timer"),
            enabled("kvci-runner.service"),
        ],
        given.dry_run,
    )


def _is(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text() == text


def _box() -> None:
    raise Failed("/var/lib/kvci/runs is not there; run ci/runner/box.py first.")


def _run(*words: str) -> None:
    run(*words)


if __name__ == "__main__":
    main()
