"""The review job: a pull request's results, read through the API, held against their evidence."""

from kvci.actions.outputs import summary
from kvci.errors import UserError
from kvci.publish.branch import BENCHMARKS, RESULTS
from kvci.publish.github import GitHub
from kvci.publish.review import Review, comment, review

CONTEXT = "kvci/results"
LABEL = "kvci: accept unattested"
"""Only who may write to the repository can give it."""
MARK = "<!-- kvci review -->"
MAX_EVIDENCE_BYTES = 2 << 30


def review_pull(github: GitHub, number: int, web: str, job_url: str) -> tuple[Review, bool] | None:
    """Set the status of the pull request's head, and write the one comment; what was found, and
    whether it passes.

    None if it touches no results. Nothing of its head is ever run. Raises UserError.
    """
    pull = github.pull(number)
    paths = [path for path in github.changed(number) if _is_result(path)]
    if not paths:
        return None
    fork = github.merge_base(pull.base, pull.head)
    base, head = (_results(github, commit) for commit in (fork, pull.head))
    if github.pull(number).head != pull.head:
        raise UserError(f"#{number} has changed while it was read; the next run reads it again.")
    found = review(base, head, lambda url: github.attached(url, web, MAX_EVIDENCE_BYTES))
    accepted = LABEL in pull.labels
    passes = found.passes(accepted)
    text = f"{MARK}\n{comment(found, accepted)}"
    github.status(pull.head, passes, CONTEXT, _line(found, accepted), job_url)
    github.comment(number, MARK, text)
    summary(text)
    return found, passes


def _line(found: Review, accepted: bool) -> str:
    if found.problems:
        return f"{len(found.problems)} problems: the rows cannot be believed as they are"
    if found.unattested and not accepted:
        return f"unattested; the label '{LABEL}' accepts it"
    return f"{len(found.new)} new records are what their evidence gives"


def _is_result(path: str) -> bool:
    return path == BENCHMARKS or path.startswith(f"{RESULTS}/")


def _results(github: GitHub, commit: str) -> dict[str, bytes]:
    """BENCHMARKS.md and the records of a commit."""
    blobs = {path: sha for path, sha in github.tree(commit).items() if _is_result(path)}
    return {path: github.blob(sha) for path, sha in blobs.items()}
