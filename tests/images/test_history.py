"""A model can read nothing that is later than the base commit, wherever it is stored."""

import contextlib
import re
from collections.abc import Iterator

import pytest

from kvci.docker import engine
from kvci.docker.engine import OWNER
from kvci.images import history
from kvci.images.history import CannotStrip, history_stripped
from kvci.images.strip_script import CANNOT_STRIP
from kvci.sandbox import Limits, SandboxFailed
from kvci.sandbox.container import Docker
from tests.made_images import calibration_image

FILES = {"a.py": "x = 1\n"}
NAME = "kvci-test"
PAST = """
set -e; cd /testbed; git config user.name x; git config user.email x
git tag past; git tag -a annotated -m 'an old release'
echo y >> a.py; git commit -qam base; git branch -q other HEAD~1; git tag v1
"""
LATER = """
set -e; cd /testbed
plant() { echo "planted_$1 = 1" > a.py; git commit -qam "planted_$1"; }
git checkout -q -b later; plant commit; plant commit_two
git checkout -q --detach main; plant tag; git tag planted_tag
git checkout -q --detach main; plant annotated; git tag -a planted_annotated -m planted_message
git checkout -q --detach main; plant reflog
git checkout -q main; echo planted_stash > a.py; git stash -q
git checkout -q --detach main; plant orphan; orphan=$(git rev-parse HEAD)
git checkout -q main
echo "$orphan" | git pack-objects --revs -q .git/objects/pack/pack > name
touch .git/objects/pack/pack-$(cat name).keep; rm name
git checkout -q --detach main; plant remote; git update-ref refs/remotes/origin/main HEAD
git symbolic-ref refs/remotes/origin/HEAD refs/remotes/origin/main
git checkout -q --detach main; plant note; note=$(git rev-parse HEAD:a.py)
git checkout -q main; git notes add -m planted_note; git update-ref refs/kvci/blob $note
git worktree add -q --detach /elsewhere main; (cd /elsewhere; plant worktree); rm -rf /elsewhere
git remote add origin https://example.invalid/planted
echo planted_loose | git hash-object -w --stdin
git gc -q --prune=never
git checkout -q --detach main; plant replaced; git checkout -q main; git replace main HEAD@{1}
echo planted_staged > b.py; git add b.py; rm b.py
git status > /dev/null
"""
EVERYTHING = """
git cat-file --batch-all-objects --batch | grep -a planted
find .git -type f -exec zgrep -la planted {} +
grep -rla planted . ; git log --all --oneline | grep planted; git tag | grep planted
git reflog | grep planted; git config --list | grep planted; true
"""


def remove(image: str) -> None:
    """Remove the image and the images that were stripped from it."""
    if engine.has(image):
        images = engine.client().images
        digest = images.get(image).id
        for stripped in images.list(history.STRIPPED):
            if stripped.labels.get(history.STRIPPED_FROM) == digest:
                images.remove(stripped.id, force=True)
        if engine.has(image):
            images.remove(images.get(image).id, force=True)


@contextlib.contextmanager
def changed(
    image: str, change: str, files: dict[str, str] | None = None
) -> Iterator[tuple[bytes, Docker]]:
    """Return the output of the change, and a container of the changed image for a trial."""
    name = f"{NAME}:later"
    box = Docker(image, files)
    try:
        done = box.script(change, Limits())
        assert done.code == 0, done.output
        box._container.commit(*name.split(":"))
    finally:
        box.close()
    try:
        seen = Docker(history_stripped(name, "HEAD"))
        try:
            yield done.output, seen
        finally:
            seen.close()
    finally:
        remove(name)


@pytest.fixture(scope="module")
def past() -> Iterator[str]:
    """Return an image of the calibration suite that has history before its base commit."""
    box = Docker(calibration_image(), FILES)
    try:
        assert box.script(PAST, Limits()).code == 0
        box._container.commit(NAME, "past")
        yield f"{NAME}:past"
    finally:
        box.close()
        remove(f"{NAME}:past")


@pytest.fixture
def image(past: str) -> Iterator[str]:
    """Yield the same image. Remove the images that a test commits as `later`."""
    yield past
    remove(f"{NAME}:later")


def test_a_clean_image_stays_as_it_is(image: str) -> None:
    images = engine.client().images
    clean = images.get(history_stripped(image, "HEAD")).id
    assert clean != images.get(image).id, "its reflogs are removed"
    for name in (image, clean):
        assert images.get(history_stripped(name, "HEAD")).id == clean
        assert history.identity(name) == images.get(image).id


def test_an_image_made_from_it_has_another_identity(image: str) -> None:
    """Earlier, a repaired image kept the preflight result of the broken image."""
    box = Docker(history_stripped(image, "HEAD"))
    try:
        box.run("touch /repaired", Limits())
        repaired = box._container.commit(NAME, "repaired")
        assert repaired.labels[history.STRIPPED_FROM] == engine.client().images.get(image).id
        assert history.identity(f"{NAME}:repaired") == repaired.id
    finally:
        box.close()
        engine.client().images.remove(f"{NAME}:repaired", force=True)


def test_later_messages_are_removed(image: str) -> None:
    """Here only messages are later than the base commit, and no objects."""
    change = """
git update-ref -m planted_message HEAD HEAD --create-reflog && mkdir .git/rebase-apply &&
  echo planted_patch > .git/rebase-apply/patch && ls .git/logs"""
    with changed(history_stripped(image, "HEAD"), change) as (_, seen):
        assert seen.script(EVERYTHING, Limits()).output == b""


def test_the_fix_is_unreadable_and_the_past_readable(image: str) -> None:
    box = Docker(image)
    try:
        done = box.script(LATER, Limits())
        assert done.code == 0, done.output
        kinds = ("commit", "tag", "reflog", "stash", "orphan", "remote", "replaced", "note")
        everything = box.script(EVERYTHING, Limits()).output.decode()
        for kind in (*kinds, "worktree", "annotated", "message", "loose", "staged"):
            assert f"planted_{kind}" in everything, kind
        box._container.commit(NAME, "later")
        stripped = history_stripped(f"{NAME}:later", "HEAD")
        assert stripped == history_stripped(f"{NAME}:later", "HEAD")
        labels = engine.client().images.get(stripped).labels
        assert not labels.get(OWNER), "kvci would take every container of it for its own"
        seen = Docker(stripped)
        try:
            assert seen.script(EVERYTHING, Limits()).output == b""
            log = seen.run("git log --all --oneline; git tag; git branch; git fsck", Limits())
            text = log.output.decode()
            for kept in ("base", "past", "annotated", "v1", "other"):
                assert kept in text
            assert seen.run("git status --porcelain", Limits()).output == b""
            seen.run("echo z >> a.py", Limits())
            assert b"+z" in seen.diff()
        finally:
            seen.close()
    finally:
        box.close()


def test_a_head_beyond_its_base_is_refused(image: str) -> None:
    """One commit of the set-up on top of the base commit is allowed; a second may be a fix."""
    box = Docker(image)
    commits = "git commit -qm one --allow-empty; {}git rev-parse HEAD~{} HEAD~1"
    try:
        done = box.script(f"cd /testbed; {commits.format('', 1)}", Limits())
        base = done.output.decode().split()[0]
        box._container.commit(NAME, "later")
        assert history_stripped(f"{NAME}:later", base)
        for other in ("0" * 40, "--help", "past; rm -rf /testbed"):
            with pytest.raises(
                CannotStrip,
                match=r"cannot be stripped: its HEAD must be .* on top of \S+",
            ):
                history_stripped(f"{NAME}:later", other)
        box.script("cd /testbed; git commit -qm two --allow-empty", Limits())
        box._container.commit(NAME, "beyond")
        with pytest.raises(CannotStrip, match="its HEAD must be"):
            history_stripped(f"{NAME}:beyond", base)
    finally:
        box.close()
        remove(f"{NAME}:beyond")


def test_a_submodule_keeps_only_its_past(image: str) -> None:
    plant = """
set -e; export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=protocol.file.allow GIT_CONFIG_VALUE_0=always
git config --global user.name x; git config --global user.email x
git init -q /sub; cd /sub; echo part > part.py; git add .; git commit -qm part
git commit -qm planted_later --allow-empty; echo planted_later > part.py; git commit -qam later
cd /testbed; git submodule -q add /sub part; git -C part checkout -q HEAD~2
git init -q inner; cd inner; echo own > own.py; git add .; git commit -qm own
echo planted_inner > own.py; git commit -qam planted_inner; git reset -q --hard HEAD~1
cd ..; git add part; git commit -qm base; rm -rf /sub ~/.gitconfig
"""
    box = Docker(image)
    look = """
cd /testbed; for folder in .git .git/modules/part inner/.git; do
  git --git-dir=$folder cat-file --batch-all-objects --batch; git --git-dir=$folder fsck
  find $folder -type f -exec zgrep -la planted {} +
done; git submodule status; git status --porcelain; git -C inner log --oneline"""
    try:
        done = box.script(plant, Limits())
        assert done.code == 0, done.output
        assert box.script(look, Limits()).output.count(b"planted_inner") > 1
        box._container.commit(NAME, "later")
        seen = Docker(history_stripped(f"{NAME}:later", "HEAD"))
        try:
            output = seen.script(look, Limits()).output
            assert b"planted" not in output and b"part (" in output and b" own\n" in output, output
            assert b"+part" in output or b" M part" not in output
        finally:
            seen.close()
    finally:
        box.close()


def test_a_stripped_image_keeps_its_own_command(image: str) -> None:
    """Earlier, a stripped image ran the strip script again when it started.

    The harness sets a command but no entrypoint, so its container ended at once.
    """
    box = Docker(image)
    box._container.commit(NAME, "later", conf={"Cmd": ["sleep", "7"]})
    box.close()
    images = engine.client().images
    before, after = (
        images.get(name).attrs["Config"]
        for name in (f"{NAME}:later", history_stripped(f"{NAME}:later", "HEAD"))
    )
    assert (
        images.get(f"{NAME}:later").id != images.get(history_stripped(f"{NAME}:later", "HEAD")).id
    )
    for key in ("Entrypoint", "Cmd", "Env", "WorkingDir"):
        assert (after[key] or []) == (before[key] or []), key
    done = engine.client().containers.run(
        history_stripped(f"{NAME}:later", "HEAD"), "echo it runs", remove=True, network_mode="none"
    )
    assert done == b"it runs\n"


def test_a_broken_tag_is_removed(image: str) -> None:
    plant = "cd /testbed; echo 0123456789012345678901234567890123456789 > .git/refs/tags/broken"
    with changed(image, plant) as (_, seen):
        assert seen.run("git tag", Limits()).output.split() == [b"annotated", b"past", b"v1"]


@pytest.mark.long
def test_bare_and_commitless_repositories_are_handled(image: str) -> None:
    """A repository stays as it is if the base commit tracks it or it has no later objects."""
    plant = """
set -e; cd /testbed; git config --global user.name x; git config --global user.email x
git init -q --bare fixture.git; touch fixture.git/refs/kept fixture.git/objects/kept
git add -f fixture.git; git commit -qm base
git init -q /made; cd /made; echo own > own.py; git add .; git commit -qm own
echo planted > own.py; git commit -qam planted; git clone -q --bare /made /testbed/cloned.git
cd /testbed; git --git-dir=cloned.git update-ref HEAD HEAD~1
git init -q empty; git init -q staged; echo planted > staged/a.py; git -C staged add a.py
rm -rf /made ~/.gitconfig; find fixture.git | sort > /before
"""
    look = """
cd /testbed; for folder in cloned.git empty/.git staged/.git fixture.git; do
  git --git-dir=$folder cat-file --batch-all-objects --batch
  find $folder -type f -exec zgrep -la planted {} +
done; find fixture.git | sort | cmp - /before && ls -d empty/.git staged/.git"""
    box = Docker(image)
    try:
        done = box.script(plant, Limits())
        assert done.code == 0, done.output
        assert box.script(look, Limits()).output.count(b"planted") > 1
        box._container.commit(NAME, "later")
        seen = Docker(history_stripped(f"{NAME}:later", "HEAD"))
        try:
            done = seen.script(look, Limits())
            assert done.code == 0 and b"planted" not in done.output, done.output
            assert b"own" in done.output
        finally:
            seen.close()
    finally:
        box.close()


def test_a_later_tag_loses_only_its_message(image: str) -> None:
    plant = """
set -e; cd /testbed; git config user.name x; git config user.email x
GIT_COMMITTER_DATE='2001-01-01T00:00' git tag -a -m 'earlier words' before HEAD
GIT_COMMITTER_DATE='2090-01-01T00:00' git tag -a -m planted_words after HEAD~1
git rev-parse HEAD~1; rm -rf .git/logs
"""
    with changed(image, plant) as (printed, seen):
        assert seen.script(EVERYTHING, Limits()).output == b""
        output = seen.run("git rev-parse after; git tag -n1 -l before", Limits()).output
        assert output.split()[0] == printed.split()[-1] and b"earlier words" in output


def test_a_missing_or_unstrippable_image_is_refused() -> None:
    with pytest.raises(SandboxFailed, match="kvci images pull"):
        history_stripped("kvci-test:nowhere", "HEAD")
    box = Docker(calibration_image())
    try:
        box.script("mkdir -p /testbed", Limits())
        box._container.commit(NAME, "bare")
        with pytest.raises(SandboxFailed, match="cannot be stripped"):
            history_stripped(f"{NAME}:bare", "HEAD")
    finally:
        box.close()
        engine.client().images.remove(f"{NAME}:bare", force=True)


@pytest.mark.long
def test_packs_without_a_valid_index_are_removed() -> None:
    """One index is cut, one is that of another pack, one has a wrong byte."""
    plant = """
set -e; cd /testbed; git config user.name x; git config user.email x
mkdir /other; git rev-parse HEAD | git pack-objects -q /other/pack > /dev/null
for harm in cut other byte; do
  git checkout -q --detach main; echo "planted $harm" > a.py; git commit -qam planted
  name=$(git rev-parse HEAD | git pack-objects --revs -q .git/objects/pack/pack)
  idx=.git/objects/pack/pack-$name.idx; chmod u+w $idx; echo $idx $harm >> /indexes; echo $name
done
git checkout -q main; rm -rf .git/logs .git/ORIG_HEAD .git/COMMIT_EDITMSG
git rev-list --objects --no-object-names $(git rev-parse main) > /kept
(cd .git/objects; find ?? -type f | tr -d /) | grep -vxFf /kept |
  while read -r one; do rm -f .git/objects/$(echo $one | cut -c -2)/$(echo $one | cut -c 3-); done
while read -r idx harm; do case $harm in
  cut) truncate -s 1100 $idx ;;
  other) cp /other/pack-*.idx $idx ;;
  byte) printf x | dd of=$idx bs=1 seek=1040 conv=notrunc status=none ;;
esac; done < /indexes
"""
    with changed(calibration_image(), plant, FILES) as (printed, clean):
        left = clean.script("cd /testbed; ls .git/objects/pack; git fsck", Limits())
        packs = printed.split()
        assert left.code == 0 and len(packs) == 3
        assert not any(pack in left.output for pack in packs), left.output


@pytest.mark.parametrize("dirty", [False, pytest.param(True, marks=pytest.mark.long)])
def test_files_that_git_ignores_are_removed(dirty: bool) -> None:
    """The files are a pack without its index, an unfinished pack, and grafts."""
    plant = """
set -e; cd /testbed; git config user.name x; git config user.email x
git checkout -q --detach; echo planted > a.py; git commit -qam planted; late=$(git rev-parse HEAD)
git checkout -q main
echo "$late" | git pack-objects --revs -q /tmp/made > /tmp/name
cp /tmp/made-$(cat /tmp/name).pack .git/objects/pack/pack-$(cat /tmp/name).pack
cp /tmp/made-$(cat /tmp/name).pack .git/objects/pack/tmp_pack_x
echo "$(git rev-parse HEAD) $late" > .git/info/grafts
rm -rf .git/logs /tmp/made* .git/ORIG_HEAD
"""
    if not dirty:
        plant += "git -c gc.cruftPacks=false gc -q --prune=now; rm -rf .git/logs\n"
        plant = plant.replace('echo "$(git', 'late=$late; echo "$(git')
    with changed(calibration_image(), plant, FILES) as (_, clean):
        left = clean.script(
            "cd /testbed; ls .git/objects/pack .git/info; git log --oneline", Limits()
        )
        text = left.output.decode()
        assert "tmp_pack" not in text and "grafts" not in text and "planted" not in text
        for pack in re.findall(r"(pack-\w+)\.pack", text):
            assert f"{pack}.idx" in text
        indexed = clean.script(
            "cd /testbed; git fsck; git cat-file --batch-all-objects --batch | grep -a planted",
            Limits(),
        )
        assert b"planted" not in indexed.output


def test_a_killed_strip_does_not_condemn_the_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(history, "STRIP", "exit 137")
    box = Docker(calibration_image(), FILES)
    try:
        box._container.commit(NAME, "killed")
    finally:
        box.close()
    try:
        with pytest.raises(SandboxFailed) as failed:
            history_stripped(f"{NAME}:killed", "HEAD")
        assert type(failed.value) is SandboxFailed
        monkeypatch.setattr(history, "STRIP", f"exit {CANNOT_STRIP}")
        with pytest.raises(CannotStrip):
            history_stripped(f"{NAME}:killed", "HEAD")
    finally:
        remove(f"{NAME}:killed")
