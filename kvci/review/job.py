"""The review job: a pull request's results, read through the API, held against their evidence."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kvci.errors import UserError
from kvci.github import GitHub, PullRequest
from kvci.jobs.known import content
from kvci.jobs.outputs import summary
from kvci.record.places import BENCHMARKS, is_record, misplaced, touches_results
from kvci.report.tables import inert
from kvci.review.rows import Review, comment, review

CONTEXT = "kvci/results"
LABEL = "kvci: accept unattested"
"""It accepts if who gives it may write to the repository; the triage role may give labels, too."""
MARK = "<!-- kvci review -->"
MAX_EVIDENCE_BYTES = 2 << 30
MAX_LISTED = 3000
"""GitHub lists no more of a pull request's files."""
NOTHING = "It touches no results."
Event = Mapping[str, Any]


def review_pull(
    github: GitHub, number: int, web: str, job_url: str, event: Event | None = None
) -> tuple[Review, bool] | None:
    """Set the status of the pull request's head, and write the one comment; what was found, and
    whether it passes.

    None if it touches no results. `event` is what started the job, as GitHub tells it. Nothing of
    the head is ever run. Raises UserError; then, too, the status says failure.
    """
    pull = github.pull(number)
    if pull.into != pull.default:
        _elsewhere(github, number, pull)
        return None

    def say(state: str, line: str) -> None:
        github.status(pull.head, state, CONTEXT, line, job_url)

    say("pending", "its results are read")
    try:
        done = _reviewed(github, number, pull, web, event or {})
    except Exception as error:
        say("failure", str(error) if isinstance(error, UserError) else "kvci failed; see its log")
        raise
    if done is None:
        say("success", "it touches no results")
        summary(f"**{NOTHING}**\n")
        if github.commented(number, MARK):  # of what it once touched
            github.comment(number, MARK, f"{MARK}\n**{NOTHING}**")
        return None
    found, accepted, text = done
    passes = found.passes(accepted)
    say("success" if passes else "failure", _line(found, accepted))
    github.comment(number, MARK, text)
    summary(text)
    return found, passes


def _reviewed(
    github: GitHub, number: int, pull: PullRequest, web: str, event: Event
) -> tuple[Review, bool, str] | None:
    """What was found, whether a maintainer accepts what is unattested, and the comment."""
    changed = github.changed(number)
    many = len(changed) >= MAX_LISTED
    tree = github.tree(pull.head) if many or any(map(touches_results, changed)) else {}
    wrong = misplaced(tree)
    if not many and not wrong and not any(map(_is_result, changed)):
        _still(github, number, pull)
        return None
    fork = github.merge_base(pull.base, pull.head)
    base, head = (_results(github, files) for files in (github.tree(fork), tree))
    _still(github, number, pull)
    found = review(base, head, lambda url: github.attached(url, web, MAX_EVIDENCE_BYTES))
    found = replace(found, problems=(*wrong, *found.problems))
    # Another run may have been told of a label meanwhile: what is known now counts.
    labels = _still(github, number, pull).labels
    memory = f"<!-- accepted {pull.head} -->"
    # Its second line and no other: what follows may hold anybody's words.
    before = github.commented(number, MARK).split("\n")[1:2]
    given = _labelled(event) == pull.head
    if given and not github.may_write(who := str(event["sender"]["login"])):
        note = f"the label counts for nothing: {who}, who gave it, may not write here"
        given, found = False, replace(found, notes=(note, *found.notes))
    accepted = LABEL in labels and (given or before == [memory])
    lines = [MARK, *([memory] if accepted else []), comment(found, accepted)]
    return found, accepted, "\n".join(lines)


def _elsewhere(github: GitHub, number: int, pull: PullRequest) -> None:
    """Of one into another branch than the default one no status is set: that is the commit's, and
    another pull request may ask to merge the same. Raises UserError if it touches results."""
    into = f"#{number} asks to merge into {pull.into[:80]}"
    if any(map(touches_results, github.changed(number))):
        raise UserError(f"{into}, and results are merged into {pull.default} alone.")
    summary(f"**{inert(into)}, and touches no results.**\n")


def _still(github: GitHub, number: int, pull: PullRequest) -> PullRequest:
    """The pull request as it is now. Raises UserError if its head is another."""
    now = github.pull(number)
    if now.head != pull.head:
        raise UserError(f"#{number} has changed while it was read; the next run reads it again.")
    return now


def _labelled(event: Event) -> str:
    """The head that a maintainer looked at who gave the label just now; what is pushed later, with
    the label still there, is not accepted by it."""
    if event.get("action") != "labeled" or event.get("label", {}).get("name") != LABEL:
        return ""
    return str(event["pull_request"]["head"]["sha"])


def _line(found: Review, accepted: bool) -> str:
    if found.problems:
        return f"{len(found.problems)} problems: the rows cannot be believed as they are"
    if found.unattested:
        return (
            "a maintainer accepts it; its evidence was not checked"
            if accepted
            else f"unattested; the label '{LABEL}' accepts this head"
        )
    return f"{len(found.new)} new records are what their evidence gives"


def _is_result(path: str) -> bool:
    return path == BENCHMARKS or is_record(path)


def _results(github: GitHub, tree: Mapping[str, str]) -> dict[str, bytes]:
    """BENCHMARKS.md and the records of a commit's tree."""
    blobs = {path: sha for path, sha in tree.items() if sha and _is_result(path)}
    return {path: content(github, path, sha) for path, sha in blobs.items()}
