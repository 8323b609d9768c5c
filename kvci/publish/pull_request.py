"""Publish a run in three steps: upload its evidence, push its rows, open a pull request."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kvci.compare.compare import compare_run
from kvci.errors import UserError
from kvci.files import sha256_of
from kvci.github import API, GitHub, run_url, web
from kvci.publish.branch import TRIES, pause, push
from kvci.record.bundle import pack
from kvci.record.from_run import build
from kvci.record.places import UNMERGED
from kvci.record.schema import Record, by_run
from kvci.report.comparison import markdown
from kvci.report.plot import run_bars
from kvci.rundir.parts import Run
from kvci.text import Markdown, plain
from kvci.text import markdown as inert

MAX_BODY = 60_000
"""The maximum number of characters that kvci writes; GitHub accepts 65,536."""


@dataclass(frozen=True)
class Target:
    """The repository and the branches to which kvci publishes."""

    repository: str
    """The repository at GitHub, as owner/name."""
    origin: str
    """The repository's URL for git, or its path."""
    web: str = "https://github.com"
    base: str = "main"
    branch: str = UNMERGED
    run_url: str = ""
    """The page of the workflow run that publishes; empty outside a workflow."""
    review: str = ""
    """The file of the review workflow that kvci starts; empty if GitHub starts it by itself."""


@dataclass(frozen=True)
class Published:
    """A pull request. The URL is empty in a dry run, or if the base branch already has all rows."""

    title: str
    body: str
    url: str = ""


def target_of(repository: str, origin: str | None, base: str, branch: str, review: str) -> Target:
    """Return the target. Its addresses come from the environment that GitHub Actions sets."""
    url = origin or f"{web()}/{repository}.git"
    return Target(repository, url, web(), base, branch, run_url(repository), review)


def github_of(repository: str) -> GitHub:
    """Return a client that uses the token in GITHUB_TOKEN. Raises UserError if it is not set."""
    token = os.environ.get("GITHUB_TOKEN", "")
    if not token:
        raise UserError("There is no token for GitHub; set GITHUB_TOKEN, or use publish --dry-run.")
    return GitHub(repository, token, os.environ.get("GITHUB_API_URL", API))


def publish(run: Path, target: Target, github: GitHub | None) -> Published:
    """Upload the evidence, push the rows that name it, and open or update the pull request.

    If `github` is None, this is a dry run, and nothing leaves this machine. Raises UserError if the
    run is a demo or cannot be read, or if git or GitHub fails.
    """
    manifest = Run(run).manifest
    if manifest.demo:
        raise UserError("A demo is never published; run an experiment.")
    archive = pack(run)
    records = with_evidence(build(run), archive, target)
    token = github.token if github else ""
    if github:
        tag, name, url = _evidence_place(manifest.run_id, archive, target)
        if (found := github.attach(tag, target.base, name, archive)) != url:
            raise UserError(
                f"The evidence is at {found}, but the rows name {url}; check --repository and "
                "GITHUB_SERVER_URL."
            )
    for _ in range(TRIES):
        pushed = push(target.origin, target.base, target.branch, records, token, dry_run=not github)
        text = Published(_title(pushed.records), _body(pushed.records, target))
        if not github or not pushed.rows:
            return text
        request = github.pull_request(target.branch, target.base, text.title, text.body)
        if github.branch(target.branch) == pushed.commit:
            break
        pause()  # another publisher pushed, and this text may have replaced that publisher's text
    else:
        raise UserError(
            f"The rows were pushed to {target.branch}, but GitHub shows another commit on this "
            "branch; find out what else writes to the branch, and publish again."
        )
    if target.review:
        github.dispatch(target.review, target.base, {"number": str(request.number)})
    return Published(text.title, text.body, request.url)


def _evidence_place(run_id: str, archive: bytes, target: Target) -> tuple[str, str, str]:
    """Return the release's tag, the asset's name, and its URL."""
    clean = re.sub(r"[^A-Za-z0-9_-]+", "-", run_id)
    tag, name = f"kvci-{clean}", f"{clean}.{sha256_of(archive)[:12]}.tar.gz"
    return tag, name, f"{target.web}/{target.repository}/releases/download/{tag}/{name}"


def with_evidence(records: Sequence[Record], archive: bytes, target: Target) -> list[Record]:
    """Return a run's records, each with the URL and the hash of the run's archive."""
    _, _, url = _evidence_place(records[0].run_id, archive, target)
    where = {"where": url, "sha256": sha256_of(archive)}
    return [
        record.model_copy(update={"evidence": record.evidence.model_copy(update=where)})
        for record in records
    ]


def _title(records: Sequence[Record]) -> str:
    names = sorted({f"{record.spec['model']['name']} on {record.dataset}" for record in records})
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return plain(f"Results: {', '.join(names[:2])}{more}") if names else "No new rows"


def _linked(record: Record, target: Target) -> Markdown:
    """Return the row's id, with a link to its evidence if that is in a release of the target."""
    ours, where = f"{target.web}/{target.repository}/releases/download/", record.evidence.where
    if where.startswith(ours) and re.fullmatch(r"[\w.-]+/[\w.-]+", where[len(ours) :], re.ASCII):
        return Markdown(f"[{inert(record.row_id)}]({where})")
    return inert(f"{record.row_id}, evidence: {where or 'none'}")


def _body(records: Sequence[Record], target: Target) -> str:
    """Return the comparison of each run, the newest run first."""
    parts = [f"From {target.run_url}\n"] if target.run_url else []
    runs = sorted(by_run(records).values(), key=lambda arms: arms[0].start, reverse=True)
    for arms in runs:
        parts.append(f"# {inert(arms[0].run_id)}\n")
        if arms[0].rerun:
            parts.append(
                f"A targeted rerun of {inert(arms[0].rerun)}. It is not compared with any run.\n"
            )
        elif made := compare_run(arms):
            parts += [markdown(made), run_bars(arms)]
        parts += [f"- {_linked(record, target)}" for record in arms]
        parts.append("")
    text = "\n".join(parts)
    if len(text) > MAX_BODY:
        text = text[:MAX_BODY].rpartition("\n")[0] + "\n\nThe text is cut here; see BENCHMARKS.md."
    return text
