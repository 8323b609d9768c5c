"""Run the workflows on this machine with act, and replace the parts that only GitHub has.

The steps are those of the workflows, and run in act's host mode. Checkout copies this work tree.
Artifacts are files in a folder, origin is a bare repository, and the API is the fake of the tests.
"""

import atexit
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import git

from tests.conftest import ROOT
from tests.fake_github import Fake

REPLACED = {
    "checkout": """
name: checkout
inputs: {path: {default: .}, repository: {}, ref: {}, persist-credentials: {}}
runs:
  using: composite
  steps:
    - shell: bash
      run: mkdir -p "$TO" && cp -a "$FROM/." "$TO/"
      env:
        TO: "${{ inputs.path }}"
        FROM: "${{ inputs.path == '.kvci' && env.FAKE_KVCI || env.FAKE_CHECKOUT }}"
""",
    "create-github-app-token": """
name: create-github-app-token
inputs: {client-id: {}, private-key: {}, permission-contents: {}, permission-pull-requests: {}}
outputs: {token: {value: "${{ steps.made.outputs.token }}"}}
runs:
  using: composite
  steps:
    - id: made
      shell: bash
      run: echo "token=app-$ID-$KEY" >> "$GITHUB_OUTPUT"
      env: {ID: "${{ inputs.client-id }}", KEY: "${{ inputs.private-key }}"}
""",
    "upload-artifact": """
name: upload-artifact
inputs: {name: {}, path: {}, overwrite: {}, if-no-files-found: {}}
runs:
  using: composite
  steps:
    - shell: bash
      run: |
        mkdir -p "$FAKE_ARTIFACTS/$NAME"
        if [ -d "$FROM" ]; then FROM="$FROM/."; fi
        cp -r "$FROM" "$FAKE_ARTIFACTS/$NAME/"
      env: {NAME: "${{ inputs.name }}", FROM: "${{ inputs.path }}"}
""",
    "download-artifact": """
name: download-artifact
inputs: {name: {}, pattern: {}, path: {default: .}}
runs:
  using: composite
  steps:
    - shell: bash
      run: |
        mkdir -p "$TO"
        if [ -n "$NAME" ]; then cp -r "$FAKE_ARTIFACTS/$NAME/." "$TO/"; exit; fi
        for one in "$FAKE_ARTIFACTS"/$PATTERN; do [ ! -e "$one" ] || cp -r "$one" "$TO/"; done
      env: {NAME: "${{ inputs.name }}", PATTERN: "${{ inputs.pattern }}", TO: "${{ inputs.path }}"}
""",
}


RUN = 1
"""The number that act gives to every workflow run."""


@dataclass(frozen=True)
class Done:
    """The result of act."""

    code: int
    log: str
    """The output of act, with the summaries."""
    jobs: dict[str, str]
    """A job and its matrix leg -> success or failure; a skipped job is missing."""


class GitHubHere:
    """A fake GitHub in a folder. Its repository is kvci's, or one that calls kvci's workflows."""

    def __init__(self, folder: Path, fake: Fake, own: dict[str, str] | None = None) -> None:
        """Make the repository from `own`, path -> text; without `own`, from kvci's files."""
        self.folder, self.fake = folder, fake
        self.work, self.origin = folder / "repository", folder / "origin.git"
        self.kvci = folder / "kvci"
        self.settings: list[tuple[str, str]] = []
        """Variables and secrets, written as options of act."""
        self.payload: dict[str, Any] = {}
        """Additional fields of the event's payload."""
        fake.web, fake.origin = fake.url, self.origin
        self.runs = folder / "runs"
        _copy(self.kvci)
        (self.kvci / "Makefile").write_text(f"install:\n\tln -s {_installed()} .venv\n")
        if own is None:
            _copy(self.work)
        for name, text in (own or {}).items():
            (self.work / name).parent.mkdir(parents=True, exist_ok=True)
            (self.work / name).write_text(text)
        repository = git.Repo.init(self.work, initial_branch="main")
        repository.git.add("--all")
        who = ["-c", "user.name=x", "-c", "user.email=x@localhost"]
        repository.git.execute(["git", *who, "commit", "-qm", "base"])
        git.Repo.init(self.origin, bare=True, initial_branch="main")
        repository.git.push(str(self.origin), "main")
        repository.create_remote("origin", "https://github.com/owner/name.git")
        for name, text in REPLACED.items():
            (folder / name).mkdir()
            (folder / name / "action.yml").write_text(text)
        (folder / "gitconfig").write_text(
            f'[url "{self.origin.as_uri()}"]\n  insteadOf = {fake.url}/owner/name.git\n'
            "[safe]\n  directory = *\n"
        )

    def act(self, event: str, workflow: str, **inputs: str) -> Done:
        file = self.folder / "event.json"
        whole = {"inputs": inputs, "repository": {"default_branch": "main"}}
        file.write_text(json.dumps(whole | self.payload))
        words = [str(Path(sys.executable).with_name("act")), event, "--json"]
        words += ["-W", f".github/workflows/{workflow}", "-e", str(file), "--no-skip-checkout"]
        words += ["--concurrent-jobs", "1"]
        words += ["-P", "self-hosted=-self-hosted", "-P", "ubuntu-24.04=-self-hosted"]
        for name, value in inputs.items():
            words += ["--input", f"{name}={value}"]
        artifacts = self.folder / "artifacts" / workflow  # each workflow runs once at a time
        artifacts.mkdir(parents=True, exist_ok=True)
        words += ["--env", f"FAKE_ARTIFACTS={artifacts}"]
        for name, value in self._environment().items():
            words += ["--env", f"{name}={value}"]
        for name, pin in _pins(workflow).items():
            words += ["--local-repository", f"actions/{name}@{pin}={self.folder / name}"]
        words += ["--local-repository", f"OWNER/kvci@v0.2.0={self.kvci}"]
        words += ["-s", "GITHUB_TOKEN=secret-token"]
        words += [word for one in self.settings for word in one]
        done = subprocess.run(
            words,
            cwd=self.work,
            capture_output=True,
            text=True,
            env=os.environ
            | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
            | {"XDG_CACHE_HOME": str(self.folder / "cache"), "DOCKER_HOST": ""},
            timeout=900,
        )
        messages = [_message(line) for line in (done.stdout + done.stderr).splitlines()]
        ran = [_name(one) for one in messages if "jobResult" in one]
        if any(name.startswith("run ") for name in ran):
            self.fake.jobs[RUN] = [{"name": name, "conclusion": "success"} for name in ran]
        jobs = {_leg(one): one["jobResult"] for one in messages if "jobResult" in one}
        log = "\n".join(
            f"{_leg(one)}: {one['msg'].rstrip()}" for one in messages if one["msg"].strip()
        )
        return Done(done.returncode, log, jobs)

    def _environment(self) -> dict[str, str]:
        return {
            "FAKE_CHECKOUT": str(self.work),
            "FAKE_KVCI": str(self.kvci),
            "KVCI_RUNS": str(self.runs),
            "GITHUB_API_URL": self.fake.url,
            "GITHUB_SERVER_URL": self.fake.url,
            "GIT_CONFIG_GLOBAL": str(self.folder / "gitconfig"),
            "PYTHONPATH": sysconfig.get_path("purelib"),  # kvci's dependencies, without kvci
        }


@functools.cache
def _installed() -> Path:
    """Return a virtual environment that `make install` made. The jobs share it to save time."""
    place = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, place)
    _copy(place)
    (place / "ci" / "requirements.txt").write_text("")  # PYTHONPATH has the dependencies
    environment = os.environ | {"PYTHONPATH": sysconfig.get_path("purelib")}
    subprocess.run(["make", "install"], cwd=place, env=environment, check=True)
    return place / ".venv"


def _copy(to: Path) -> None:
    """Copy the files of this work tree that Git does not ignore."""
    listed = git.Repo(ROOT).git.ls_files("--cached", "--others", "--exclude-standard")
    for name in listed.splitlines():
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


def _pins(workflow: str) -> dict[str, str]:
    """Return the commits at which a workflow pins the replaced actions."""
    found: dict[str, str] = {}
    for line in (ROOT / ".github" / "workflows" / workflow).read_text().splitlines():
        name, _, pin = line.partition("uses: actions/")[2].partition("@")
        if name in REPLACED:
            found[name] = pin.split()[0]
    return found


def _message(line: str) -> dict[str, Any]:
    try:
        message: dict[str, Any] = {"msg": "", "jobID": "act"} | json.loads(line)
    except ValueError:
        message = {"msg": line, "jobID": "act"}
    return message


def _name(message: dict[str, Any]) -> str:
    """Return a job's name as GitHub shows it. act adds the workflow and the number of the leg."""
    name = str(message["job"]).partition("/")[2].strip()
    return re.sub(r"-\d+$", "", name) if message.get("matrix") else name


def _leg(message: dict[str, Any]) -> str:
    """Return the job and its matrix leg."""
    return " ".join([message["jobID"], *map(str, (message.get("matrix") or {}).values())])
