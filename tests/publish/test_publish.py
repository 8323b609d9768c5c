"""Publish a run directory, with a real git repository and a fake of GitHub."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import git
import pytest
from click.testing import CliRunner

from kvci.cli import main
from kvci.errors import UserError
from kvci.github import GitHub, PullRequest
from kvci.jobs.collect import summary_text
from kvci.publish.pull_request import Target, _body, publish
from kvci.record.bundle import unpack
from kvci.record.from_run import build
from kvci.record.schema import Record
from kvci.review.comment import comment
from kvci.review.rows import Review
from kvci.rundir.directory import RunDirectory
from kvci.rundir.documents import Manifest
from tests.fake_github import Fake
from tests.publish.test_branch import BRANCH, files, shown
from tests.record.made import record
from tests.record.test_from_run import made
from tests.record.test_merge import shard


@pytest.fixture(autouse=True)
def shows(fake: Fake, origin: Path) -> None:
    fake.origin = origin


def target(origin: Path) -> Target:
    return Target("owner/name", str(origin), run_url="https://x/runs/1", review="review.yml")


def test_evidence_reproduces_the_rows(origin: Path, fake: Fake, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shard(run, 1, ("a", "c"))
    shard(run, 2, ("b",))
    github = GitHub("owner/name", "t0ken", fake.url)
    done = publish(run, target(origin), github)
    assert done.url == fake.pulls[0]["html_url"] and fake.pulls[0]["head"]["ref"] == BRANCH
    assert "https://x/runs/1" in done.body and "q8_0/q8_0" in done.body
    assert "xychart-beta" in done.body
    assert fake.dispatched[0]["inputs"] == {"number": "1"}
    new = files(origin) - files(origin, "main")
    assert len(new) == 2
    for name in new:
        record = Record.model_validate_json(shown(origin, name))
        asset = fake.assets[record.evidence.where.rpartition("/")[2]]
        assert record.evidence.sha256 == hashlib.sha256(asset).hexdigest()
        (tmp_path / "asset.tar.gz").write_bytes(asset)
        folder = unpack(tmp_path / "asset.tar.gz", tmp_path / f"again-{record.arm}")
        (again,) = [one for one in build(folder) if one.arm == record.arm]
        place = {"evidence": again.evidence.model_copy(update={"where": record.evidence.where})}
        place["evidence"] = place["evidence"].model_copy(update={"sha256": record.evidence.sha256})
        assert again.model_copy(update=place) == record
    assert publish(run, target(origin), github).url == done.url and len(fake.pulls) == 1


def many(count: int, folder: Path) -> list[Path]:
    """Return runs of one specification; each starts a second after the one before it."""
    runs = [made(folder / f"run-{number}") for number in range(count)]
    for number, run in enumerate(runs):
        manifest = Manifest.read(run / "manifest.json")
        own = {"run_id": run.name, "start": f"2026-01-02T03:04:{number:02}Z"}
        manifest.model_copy(update=own).write(run / "manifest.json")
    return runs


def test_slow_publisher_hides_no_other_run(origin: Path, fake: Fake, tmp_path: Path) -> None:
    first, second = many(2, tmp_path)

    class Slow(GitHub):
        def pull_request(self, *words: str) -> PullRequest:
            if not fake.pulls:
                publish(second, target(origin), GitHub("owner/name", "t0ken", fake.url))
            return super().pull_request(*words)

    publish(first, target(origin), Slow("owner/name", "t0ken", fake.url))
    (pull,) = fake.pulls
    assert all(f"# {run.name}\n" in pull["body"] for run in (first, second))


def test_branch_with_another_commit_is_an_error(
    origin: Path, fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stale(GitHub):
        def branch(self, name: str) -> str:
            return "0" * 40

    monkeypatch.setattr("kvci.publish.branch.time.sleep", lambda _: None)
    monkeypatch.setattr("kvci.publish.pull_request.TRIES", 2)
    with pytest.raises(UserError, match="publish again"):
        publish(made(tmp_path / "run"), target(origin), Stale("owner/name", "t0ken", fake.url))
    assert len(fake.pulls) == 1 and files(origin) - files(origin, "main")


def test_twelve_parallel_publishers_share_one_pull_request(
    origin: Path, fake: Fake, tmp_path: Path
) -> None:
    runs = many(12, tmp_path)

    def send(run: Path) -> str:
        return publish(run, target(origin), GitHub("owner/name", "t0ken", fake.url)).url

    with ThreadPoolExecutor(12) as pool:
        urls = set(pool.map(send, runs))
    (pull,) = fake.pulls
    assert urls == {pull["html_url"]}
    new, text = files(origin) - files(origin, "main"), shown(origin, "BENCHMARKS.md")
    assert len(new) == 24 and all(Path(name).stem in text for name in new)
    assert all(f"# {run.name}\n" in pull["body"] for run in runs)
    assert len(fake.assets) == 12 and not fake.wrong


def test_arms_without_baseline_are_not_compared(origin: Path) -> None:
    """For example, a run was merged in part. Publishing it failed after the push."""
    one = record(1)
    arms = [one, one.model_copy(update={"row_id": f"{one.row_id}-2", "arm": "q4_0-q4_0"})]
    assert one.row_id in _body(arms, target(origin))
    chosen = {"rerun": {"of": "run", "filter": "I3"}}
    again = [one.model_copy(update={"spec": one.spec | chosen}) for one in map(record, (0, 1))]
    for text in (summary_text(again), comment(Review(tuple(again), (), ()), accepted=False)):
        assert (
            text.count("targeted rerun") >= 2 and "harm" not in text and "Resolved, %" not in text
        )
    for text in (summary_text(arms), comment(Review(tuple(arms), (), ()), accepted=False)):
        assert text.count("no record of its baseline") >= 2 and "the baseline |" not in text


def test_dry_run_changes_nothing(origin: Path, fake: Fake, tmp_path: Path) -> None:
    before = git.Repo(origin).git.for_each_ref()
    found = publish(made(tmp_path / "run"), target(origin), None)
    assert "q8_0-q8_0" in found.body and not found.url
    assert git.Repo(origin).git.for_each_ref() == before and not fake.calls


def test_unfinished_run_has_no_claim(origin: Path, tmp_path: Path) -> None:
    assert "interim, no claim" in publish(made(tmp_path / "run"), target(origin), None).body


def test_demo_is_not_published(origin: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="A demo is never published"):
        publish(made(tmp_path / "run", demo=True), target(origin), None)


def test_publish_verb(
    origin: Path, fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made(tmp_path / "run")
    manifest = RunDirectory(run).manifest.model_copy(update={"start": "2026-01-01T00:00:00Z"})
    manifest.write(run / "manifest.json")  # before its trials
    monkeypatch.setattr("kvci.review.evidence_check.differences", lambda run: [])  # no such dataset
    monkeypatch.setattr("kvci.review.evidence_check.unvalidated", lambda part: [])
    words = ["publish", str(run), "--repository", "owner/name", "--origin", str(origin)]
    monkeypatch.delenv("GITHUB_TOKEN", raising=False)
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2 and "set GITHUB_TOKEN" in done.output
    done = CliRunner().invoke(main, [*words, "--dry-run"])
    assert done.exit_code == 0 and done.output.endswith("nothing was sent\n")
    monkeypatch.setenv("GITHUB_TOKEN", "t0ken")
    monkeypatch.setenv("GITHUB_API_URL", fake.url)
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0 and done.output == "https://github.com/owner/name/pull/1\n"
