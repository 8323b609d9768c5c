"""The history of an instance's image: nothing in it that its base does not reach.

A fix may lie in later commits, tags, reflogs, stashes, or in objects that nothing names any more.
It is enough to look at the objects: where the base reaches each of them, nothing can name the fix.
"""

import threading
from typing import Any

from docker.errors import ImageNotFound

from kvci.docker.engine import ENGINE_ERRORS, OWNER, client, disk_full, has
from kvci.errors import UserError
from kvci.files import sha256_of
from kvci.host import process
from kvci.patience import PATIENCE_S
from kvci.sandbox import TREE, SandboxFailed

STRIPPED = "kvci/instance"
"""`kvci/instance:<id>` is the image of that id without its future: itself, if it had none."""
LOCK = threading.Lock()
"""One image at a time: making one takes a processor and a disk."""
KEPT = (
    *("HEAD", "config", "description", "hooks", "index", "info", "modules", "objects"),
    *("packed-refs", "refs", "shallow"),
)
"""Of a git folder; all else in it tells of what was done: reflogs, messages, other work trees."""
TOLD = " ".join(["-mindepth 1 -maxdepth 1 ! -empty", *(f"! -name {name}" for name in KEPT)])
ON_TOP_MAX = 1
"""The official images have what their set-up changed in a commit on top of the base."""
CLEAN, NOT_CLEAN, UNFIT = 0, 3, 4
OF = "kvci.image"
"""A label: the id of the image that this one is without its future."""
MADE = "history ends with the base"
"""The comment of the commit; what is made of an image has its labels, and not its comment."""
STRIP = rf"""
set -eo pipefail
BASE=$1
export GIT_NO_REPLACE_OBJECTS=1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
git() {{ command git -c safe.directory='*' --git-dir="$folder" "$@"; }}
has_commit() {{ git rev-parse -q --verify 'HEAD^{{commit}}' > /dev/null; }}
past() {{
  if has_commit; then
    git for-each-ref --merged HEAD --format='%(refname)' refs/heads refs/tags |
      git rev-list --objects --no-object-names --stdin HEAD
  fi
}}
all() {{ git cat-file --batch-all-objects --batch-check='%(objectname)'; }}
clean() {{
  past | sort -u > "$scratch/past" && all | sort -u > "$scratch/all" &&
    [ -z "$(comm -13 "$scratch/past" "$scratch/all")" ]
}}
mend() {{
  git for-each-ref --format='%(refname)' refs/heads refs/tags | while read -r ref; do
    git rev-parse -q --verify "$ref^{{}}" > /dev/null 2>&1 || git update-ref --no-deref -d "$ref"
  done
}}
lighten() {{
  git for-each-ref --format='%(taggerdate:unix) %(refname)' refs/tags |
    while read -r made tag; do
      if [ -n "$tag" ] && [ "$made" -gt "$date" ]; then
        git update-ref "$tag" "$(git rev-parse "$tag^{{}}")"
      fi
    done
}}
indexed() {{
  [ -e "$1.pack" ] && [ -e "$1.idx" ] &&
    cmp -s <(tail -c 20 "$1.pack") <(tail -c 40 "$1.idx" | head -c 20) &&
    cmp -s <(head -c -20 "$1.idx" | sha1sum | head -c 40) \
      <(tail -c 20 "$1.idx" | od -An -v -tx1 | tr -d ' \n')
}}
forget() {{ find "$folder" {TOLD} "$@"; }}
litter() {{
  find "$folder"/info "$folder"/objects -type f \( -name grafts -o -name 'tmp_*' \) || true
  for file in "$folder"/objects/pack/*; do
    if [ -e "$file" ] && ! indexed "${{file%.*}}"; then echo "$file"; fi
  done
}}
tracked() {{
  command git -c safe.directory='*' --git-dir="$own" --work-tree={TREE} \
    ls-files --error-unmatch "$1" > /dev/null 2>&1
}}
unfit() {{ echo "$@"; exit {UNFIT}; }}
at_base() {{
  git rev-parse -q --verify --end-of-options "$BASE^{{commit}}" > /dev/null &&
    git merge-base --is-ancestor "$BASE" HEAD &&
    [ "$(git rev-list --count "$BASE..HEAD")" -le {ON_TOP_MAX} ]
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
  if has_commit; then
    git read-tree HEAD
    git update-index -q --refresh > /dev/null || true
  else
    rm -f "$folder"/index
  fi
  forget -exec rm -rf {{}} +
  rm -rf "$folder"/objects/pack/*.keep "$folder"/objects/pack/*.promisor
  rm -rf "$folder"/objects/info/commit-graph*
  git -c gc.cruftPacks=false gc -q --prune=now || {{
    past > /dev/null || unfit "objects are missing in $folder"
    exit 1
  }}
}}
work() {{
  mend
  lighten
  if clean && [ -z "$(forget)" ] && [ -z "$(litter)" ]; then return; fi
  code={NOT_CLEAN}
  forget -exec rm -rf {{}} +
  litter | while read -r file; do rm -f "$file"; done
  if ! clean; then strip; fi
  clean || unfit "objects of another time are left in $folder"
}}
cd {TREE} || unfit "there is no {TREE}"
code={CLEAN}
folder=$(command git -c safe.directory='*' rev-parse --absolute-git-dir) || unfit "no git"
at_base || unfit "its HEAD is not $BASE, nor the one commit on top of it that a set-up makes"
own=$folder
date=$(git log -1 --format=%ct "$BASE")
work
while read -r head; do
  folder=$(dirname "$head")
  if [ -d "$folder/objects" ] && [ -d "$folder/refs" ] && ! tracked "$head"; then work; fi
done < <(
  find "$own/modules" -name HEAD 2> /dev/null || true
  find {TREE} -path "$own" -prune -o -name HEAD -print
)
exit $code
"""
"""What git does not see, such as a pack without a whole index, is removed before it is asked, and
so are names of what is missing. A tag that was made after the base keeps its name and loses its
message.

A submodule's history, and that of another repository in the tree, ends with what is checked out. A
bare repository that the base itself has among its files is left alone.
"""


class Unfit(SandboxFailed):
    """An image whose history cannot be stripped, however often it is tried."""


def without_future(image: str, base: str) -> str:
    """The name of an image whose history ends with its base commit; made once an image.

    Raises SandboxFailed if it is not here (no trial waits for a registry), Unfit.
    """
    try:
        digest = client().images.get(image).id
        with LOCK:
            if not has(name := _name(digest, base)):
                _make(image, digest, base)
        return name
    except ImageNotFound:
        raise SandboxFailed(f"Docker has no image {image}; kvci images pull gets it") from None
    except (*ENGINE_ERRORS, UserError) as error:
        raise SandboxFailed(f"Docker: {str(error)[:500]}") from None


def identity(image: str) -> str:
    """What tells an image from all others: its id as it was pulled, whenever it was stripped.

    Raises what the engine does, if it is not here.
    """
    found = client().images.get(image)
    return str(found.labels[OF] if is_made(found) else found.id)


def is_made(image: Any) -> bool:
    """True of an image that was stripped here, and not of one that somebody made of it."""
    return image.attrs.get("Comment") == MADE and OF in image.labels


def name_of(image: str, base: str) -> str:
    """The name that it has, or will have, without its future; empty if it is not here."""
    try:
        return _name(client().images.get(image).id, base)
    except ImageNotFound:
        return ""


def _name(digest: str, base: str) -> str:
    return f"{STRIPPED}:{sha256_of(f'{digest} {base}'.encode())[:24]}"


def _as_before(image: Any) -> dict[str, Any]:
    """What a commit would else take from the container that stripped it; what starts an image is
    the image's own. Of an empty command the engine takes the container's in its place."""
    config = image.attrs["Config"]
    entry, command = config.get("Entrypoint") or [], config.get("Cmd") or []
    # Without an owner, else each container of the image would be this process's.
    return {
        "Labels": {OWNER: "", OF: image.id},
        "Entrypoint": entry,
        "Cmd": command or ([] if entry else ["/bin/bash"]),
        "User": config.get("User") or "",
    }


def _make(image: str, digest: str, base: str) -> None:
    # A disk that is slow for a while takes minutes for a commit, and more of them for two.
    engine = client(PATIENCE_S)
    made = engine.containers.create(
        digest,
        ["-c", STRIP, "-", base],
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
            failed = Unfit if code == UNFIT and not disk_full() else SandboxFailed
            raise failed(f"the history of {image} cannot be stripped: {made.logs()[-300:]!r}")
        clean = engine.images.get(digest)
        if code == NOT_CLEAN:
            name, tag = _name(digest, base).split(":")  # a commit without a name would never go
            clean = made.commit(name, tag, message=MADE, conf=_as_before(clean), pause=False)
        for name in {_name(digest, base), _name(clean.id, base)}:
            clean.tag(*name.split(":"))
    finally:
        made.remove(force=True, v=True)
