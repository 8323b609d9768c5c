"""The review job: read a pull request's results through the API, and check their evidence."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kvci.deadline import time_limit
from kvci.errors import UserError
from kvci.github import GitHub, PullRequest
from kvci.jobs.known import content
from kvci.jobs.outputs import summary
from kvci.record.places import BENCHMARKS, is_record, misplaced, touches_results
from kvci.review.comment import comment
from kvci.review.rows import Review, review
from kvci.text import markdown, plain

CONTEXT = "kvci/results"
LABEL = "kvci: accept unattested"
"""The label counts only if the user who sets it may write. The triage role may set labels too."""
MARK = "<!-- kvci review -->"
MAX_EVIDENCE_BYTES = 2 << 30
MAX_CHANGED, MAX_CHANGED_BYTES = 400, 100 << 20
"""The maximum number and size of the results that a pull request changes. A job may send about a
thousand requests in an hour."""
REVIEW_S = 45 * 60.0
"""The time for a review. The job of review.yml may take an hour."""
MAX_LISTED = 3000
"""The maximum number of a pull request's files that GitHub lists."""
TOO_SLOW = (
    f"The review takes longer than {REVIEW_S / 60:.0f} minutes; publish the runs in several pull "
    "requests."
)
NOTHING = "This pull request changes no results."
Event = Mapping[str, Any]


def review_pull(
    github: GitHub, number: int, web: str, job_url: str, event: Event | None = None
) -> tuple[Review, bool] | None:
    """Review a pull request: set the status of its head, and write kvci's comment.

    Returns the result, and True if it passes. Returns None if the pull request changes no results.
    `event` is the GitHub event that started the job. kvci runs nothing of the head. Raises
    UserError if the review cannot be done; the status is then `failure`.
    """
    pull = github.pull(number)
    if pull.into != pull.default:
        _refuse_results(github, number, pull)
        return None

    def report(state: str, line: str) -> None:
        github.set_status(pull.head, state, CONTEXT, line, job_url)

    report("pending", "reading the results")
    try:
        with time_limit(REVIEW_S, UserError(TOO_SLOW)):
            done = _reviewed(github, number, pull, web, event or {})
    except Exception as error:
        why = str(error) if isinstance(error, UserError) else "kvci failed; see the job's log"
        report("failure", plain(why))
        raise
    if done is None:
        report("success", "no results are changed")
        summary(f"**{NOTHING}**\n")
        if github.existing_comment(number, MARK):  # from an earlier head that changed results
            github.comment(number, MARK, f"{MARK}\n**{NOTHING}**")
        return None
    found, accepted, text = done
    passes = found.passes(accepted)
    report("success" if passes else "failure", _status_line(found, accepted))
    github.comment(number, MARK, text)
    summary(text)
    return found, passes


def _reviewed(
    github: GitHub, number: int, pull: PullRequest, web: str, event: Event
) -> tuple[Review, bool, str] | None:
    """Return the result, True if a maintainer accepts unattested records, and the comment.

    Returns None if the pull request changes no results.
    """
    changed = github.changed(number)
    many = len(changed) >= MAX_LISTED
    tree = github.tree(pull.head) if many or any(map(touches_results, changed)) else {}
    wrong = misplaced(tree)
    if not many and not wrong and not any(map(_is_result, changed)):
        _reread(github, number, pull)
        return None
    fork = github.merge_base(pull.base, pull.head)
    before = github.tree(fork)
    base, head = _results(github, before, before), _results(github, tree, before)
    _reread(github, number, pull)
    found = review(
        base, head, lambda url: github.download_asset(url, web, MAX_EVIDENCE_BYTES), github.ran
    )
    found = replace(found, problems=(*wrong, *found.problems))
    # A user may have set the label while this job was reading, so the labels are read again.
    labels = _reread(github, number, pull).labels
    acceptance = f"<!-- accepted {pull.head} -->"
    # Only kvci writes the comment's second line. The lines after it quote the pull request.
    second_line = github.existing_comment(number, MARK).split("\n")[1:2]
    accepts = _accepted_head(event) == pull.head
    if accepts and not github.may_write(user := str(event["sender"]["login"])):
        note = f"the label does not count, because {user}, who set it, may not write here"
        accepts, found = False, replace(found, notes=(note, *found.notes))
    accepted = LABEL in labels and (accepts or second_line == [acceptance])
    lines = [MARK, *([acceptance] if accepted else []), comment(found, accepted)]
    return found, accepted, "\n".join(lines)


def _refuse_results(github: GitHub, number: int, pull: PullRequest) -> None:
    """Raise UserError if a pull request into another branch than the default branch has results.

    kvci then sets no status: a status belongs to a commit, which another pull request may share.
    """
    into = f"#{number} asks to merge into {pull.into[:80]}"
    if any(map(touches_results, github.changed(number))):
        raise UserError(
            f"{into}, but results are merged only into {pull.default}; change the branch into "
            "which it merges."
        )
    summary(f"**{markdown(into)}, and changes no results.**\n")


def _reread(github: GitHub, number: int, pull: PullRequest) -> PullRequest:
    """Return the pull request as it is now. Raises UserError if its head has changed."""
    now = github.pull(number)
    if now.head != pull.head:
        raise UserError(f"#{number} has changed while it was read; wait for the next review.")
    return now


def _accepted_head(event: Event) -> str:
    """Return the commit on which the event sets the label; empty for any other event.

    The label does not accept later commits.
    """
    if event.get("action") != "labeled" or event.get("label", {}).get("name") != LABEL:
        return ""
    return str(event["pull_request"]["head"]["sha"])


def _status_line(found: Review, accepted: bool) -> str:
    if found.problems:
        return f"{len(found.problems)} problems with the rows; see the comment"
    if found.unattested and accepted:
        return "accepted by a maintainer; not all of the evidence was checked"
    if found.unattested:
        return f"unattested; the label '{LABEL}' accepts this head"
    return f"{len(found.new)} new records match their evidence"


def _is_result(path: str) -> bool:
    return path == BENCHMARKS or is_record(path)


def _results(
    github: GitHub, tree: Mapping[str, str], before: Mapping[str, str]
) -> dict[str, bytes]:
    """Return path -> content, for BENCHMARKS.md and the records of a commit's tree.

    Raises UserError if too many of them, or too large ones, are not in the tree `before`.
    """
    blobs = {path: sha for path, sha in tree.items() if sha and _is_result(path)}
    changed = [path for path, sha in blobs.items() if before.get(path) != sha]
    if len(changed) > MAX_CHANGED:
        raise UserError(
            f"The pull request changes {len(changed)} results, and kvci reviews at most "
            f"{MAX_CHANGED} at once; publish the runs in several pull requests."
        )
    found: dict[str, bytes] = {}
    size = 0
    for path, sha in blobs.items():
        found[path] = content(github, path, sha)
        size += len(found[path]) if before.get(path) != sha else 0
        if size > MAX_CHANGED_BYTES:
            raise UserError(
                f"The pull request changes more than {MAX_CHANGED_BYTES >> 20} MiB of results; "
                "publish the runs in several pull requests."
            )
    return found
