"""The history of an instance's image: nothing in it that its base does not reach.

A fix lies in later commits, tags, reflogs, stashes, or in objects that nothing names any more. It
is enough to look at the objects: where the base reaches each of them, nothing can name the fix.
"""

import threading

from docker.errors import ImageNotFound

from kvci.errors import UserError
from kvci.host import process
from kvci.sandbox import TREE, SandboxFailed
from kvci.sandbox.engine import GONE, OWNER, PATIENCE_S, client, full, has

STRIPPED = "kvci/instance"
"""`kvci/instance:<id>` is the image of that id without its future: itself, if it had none."""
LOCK = threading.Lock()
"""One image at a time: making one takes a processor and a disk."""
KEPT = (
    *("HEAD", "config", "description", "hooks", "index", "info", "modules", "objects"),
    *("packed-refs", "refs", "shallow"),
)
"""Of the git folder; all else in it tells of what was done: reflogs, messages, other work trees."""
TOLD = " ".join(["-mindepth 1 -maxdepth 1 ! -empty", *(f"! -name {name}" for name in KEPT)])
CLEAN, NOT_CLEAN, UNFIT = 0, 3, 4
NO_REPOSITORY = 128
"""git's own."""
OF = "kvci.image"
"""A label: the id of the image that this one is without its future."""
STRIP = rf"""
set -eo pipefail
cd {TREE}
export GIT_NO_REPLACE_OBJECTS=1
git() {{ command git -c safe.directory='*' "$@"; }}
past() {{
  git for-each-ref --merged HEAD --format='%(refname)' refs/heads refs/tags |
    git rev-list --objects --no-object-names --stdin HEAD | sort -u
}}
all() {{ git cat-file --batch-all-objects --batch-check='%(objectname)' | sort -u; }}
clean() {{ [ -z "$(comm -13 <(past) <(all))" ]; }}
forget() {{ find "$folder" {TOLD} "$@"; }}
litter() {{
  find "$folder"/info "$folder"/objects -type f \( -name grafts -o -name 'tmp_*' \) || true
  for file in "$folder"/objects/pack/*; do
    if [ -e "$file" ] && [ ! -e "${{file%.*}}.idx" ]; then echo "$file"; fi
  done
}}
strip() {{
  git remote | while read -r name; do git remote remove "$name"; done
  branch=$(git symbolic-ref -q HEAD || true)
  git for-each-ref --format='%(refname)' | while read -r ref; do
    case $ref in refs/heads/*|refs/tags/*) kept=$ref ;; *) kept= ;; esac
    if [ "$ref" != "$branch" ] &&
      {{ [ -z "$kept" ] || ! git merge-base --is-ancestor "$ref" HEAD 2> /dev/null; }}; then
      git update-ref --no-deref -d "$ref"
    fi
  done
  git reset -q
  forget -exec rm -rf {{}} +
  rm -rf "$folder"/objects/pack/*.keep "$folder"/objects/pack/*.promisor
  rm -rf "$folder"/objects/info/commit-graph*
  git -c gc.cruftPacks=false gc -q --prune=now
}}
folder=$(git rev-parse --absolute-git-dir)
if clean && [ -z "$(forget)" ] && [ -z "$(litter)" ]; then exit {CLEAN}; fi
forget -exec rm -rf {{}} +
litter | while read -r file; do rm -f "$file"; done
if ! clean; then strip; fi
if clean; then exit {NOT_CLEAN}; fi
echo "objects of another time are left"; exit {UNFIT}
"""
"""What git does not see, such as a pack without its index, is removed before it is asked."""


class Unfit(SandboxFailed):
    """An image whose history cannot be stripped, however often it is tried."""


def without_future(image: str) -> str:
    """The name of an image whose history ends with its base; made once an image.

    Raises SandboxFailed if it is not here (no trial waits for a registry), Unfit.
    """
    try:
        digest = client().images.get(image).id
        with LOCK:
            if not has(name := name_of(digest)):
                _make(image, digest)
        return name
    except ImageNotFound:
        raise SandboxFailed(f"Docker has no image {image}; kvci images pull gets it") from None
    except (*GONE, UserError) as error:
        raise SandboxFailed(f"Docker: {str(error)[:500]}") from None


def identity(image: str) -> str:
    """What tells an image from all others: its id as it was pulled, whenever it was stripped.

    Raises what the engine does, if it is not here.
    """
    found = client().images.get(image)
    return str(found.labels.get(OF) or found.id)


def name_of(digest: str) -> str:
    """Of the image without its future of the image with this id."""
    return f"{STRIPPED}:{digest.removeprefix('sha256:')[:24]}"


def _make(image: str, digest: str) -> None:
    # A disk that is slow for a while takes minutes for a commit, and more of them for two.
    engine = client(PATIENCE_S)
    made = engine.containers.create(
        digest,
        ["-c", STRIP],
        entrypoint="/bin/bash",
        user="root",
        network_mode="none",
        labels={OWNER: process()},
    )
    try:
        made.start()
        code = made.wait(timeout=1800)["StatusCode"]
        if code not in (CLEAN, NOT_CLEAN):
            # Killed, or without room, it says nothing of the image.
            failed = Unfit if code in (UNFIT, NO_REPOSITORY) and not full() else SandboxFailed
            raise failed(f"the history of {image} cannot be stripped: {made.logs()[-300:]!r}")
        # Without an owner, else each container of the image would be this process's.
        labels = {"Labels": {OWNER: "", OF: digest}}
        clean = engine.images.get(digest)
        if code == NOT_CLEAN:
            name, tag = name_of(digest).split(":")  # a commit without a name would never go
            clean = made.commit(name, tag, conf=labels, pause=False)
        for name in {name_of(digest), name_of(clean.id)}:
            clean.tag(*name.split(":"))
    finally:
        made.remove(force=True, v=True)
