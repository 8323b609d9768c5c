"""The shell script that removes from an image's git folders what the base commit does not reach.

The script exits with UNCHANGED, CHANGED or CANNOT_STRIP. Any other status says nothing about the
image.
"""

from kvci.sandbox import TREE

UNCHANGED, CHANGED, CANNOT_STRIP = 0, 3, 4
ON_TOP_MAX = 1
"""The official images have one commit on top of the base commit, for changes of the set-up."""
GIT_ENTRIES = (
    *("HEAD", "config", "description", "hooks", "index", "info", "modules", "objects"),
    *("packed-refs", "refs", "shallow"),
)
"""The entries that a git folder needs. Other entries show history, for example reflogs."""
OTHER_ENTRIES = " ".join(
    ["-mindepth 1 -maxdepth 1 ! -empty", *(f"! -name {name}" for name in GIT_ENTRIES)]
)
STRIP = rf"""
set -eo pipefail
BASE=$1
export GIT_NO_REPLACE_OBJECTS=1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
git() {{ command git -c safe.directory='*' --git-dir="$folder" "$@"; }}
has_commit() {{ git rev-parse -q --verify 'HEAD^{{commit}}' > /dev/null; }}
reachable() {{
  if has_commit; then
    git for-each-ref --merged HEAD --format='%(refname)' refs/heads refs/tags |
      git rev-list --objects --no-object-names --stdin HEAD
  fi
}}
all_objects() {{ git cat-file --batch-all-objects --batch-check='%(objectname)'; }}
is_clean() {{
  reachable | sort -u > "$scratch/reachable" && all_objects | sort -u > "$scratch/all" &&
    [ -z "$(comm -13 "$scratch/reachable" "$scratch/all")" ]
}}
drop_broken_refs() {{
  git for-each-ref --format='%(refname)' refs/heads refs/tags | while read -r ref; do
    git rev-parse -q --verify "$ref^{{}}" > /dev/null 2>&1 || git update-ref --no-deref -d "$ref"
  done
}}
drop_late_tag_messages() {{
  git for-each-ref --format='%(taggerdate:unix) %(refname)' refs/tags |
    while read -r made tag; do
      if [ -n "$tag" ] && [ "$made" -gt "$date" ]; then
        git update-ref "$tag" "$(git rev-parse "$tag^{{}}")"
      fi
    done
}}
has_valid_index() {{
  [ -e "$1.pack" ] && [ -e "$1.idx" ] &&
    cmp -s <(tail -c 20 "$1.pack") <(tail -c 40 "$1.idx" | head -c 20) &&
    cmp -s <(head -c -20 "$1.idx" | sha1sum | head -c 40) \
      <(tail -c 20 "$1.idx" | od -An -v -tx1 | tr -d ' \n')
}}
other_entries() {{ find "$folder" {OTHER_ENTRIES} "$@"; }}
unusable_files() {{
  find "$folder"/info "$folder"/objects -type f \( -name grafts -o -name 'tmp_*' \) || true
  for file in "$folder"/objects/pack/*; do
    if [ -e "$file" ] && ! has_valid_index "${{file%.*}}"; then echo "$file"; fi
  done
}}
is_tracked() {{
  command git -c safe.directory='*' --git-dir="$own" --work-tree={TREE} \
    ls-files --error-unmatch "$1" > /dev/null 2>&1
}}
cannot_strip() {{ echo "$@"; exit {CANNOT_STRIP}; }}
head_is_base() {{
  git rev-parse -q --verify --end-of-options "$BASE^{{commit}}" > /dev/null &&
    git merge-base --is-ancestor "$BASE" HEAD &&
    [ "$(git rev-list --count "$BASE..HEAD")" -le {ON_TOP_MAX} ]
}}
drop_unreachable() {{
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
  other_entries -exec rm -rf {{}} +
  rm -rf "$folder"/objects/pack/*.keep "$folder"/objects/pack/*.promisor
  rm -rf "$folder"/objects/info/commit-graph*
  git -c gc.cruftPacks=false gc -q --prune=now || {{
    reachable > /dev/null || cannot_strip "objects are missing in $folder"
    exit 1
  }}
}}
strip_folder() {{
  drop_broken_refs
  drop_late_tag_messages
  if is_clean && [ -z "$(other_entries)" ] && [ -z "$(unusable_files)" ]; then return; fi
  code={CHANGED}
  other_entries -exec rm -rf {{}} +
  unusable_files | while read -r file; do rm -f "$file"; done
  if ! is_clean; then drop_unreachable; fi
  is_clean || cannot_strip "$folder still has objects that its HEAD does not reach"
}}
cd {TREE} || cannot_strip "the image has no {TREE}"
code={UNCHANGED}
folder=$(command git -c safe.directory='*' rev-parse --absolute-git-dir) ||
  cannot_strip "{TREE} is not a git work tree"
head_is_base || cannot_strip "its HEAD must be $BASE or one set-up commit on top of $BASE"
own=$folder
date=$(git log -1 --format=%ct "$BASE")
strip_folder
while read -r head; do
  folder=$(dirname "$head")
  if [ -d "$folder/objects" ] && [ -d "$folder/refs" ] && ! is_tracked "$head"; then
    strip_folder
  fi
done < <(
  find "$own/modules" -name HEAD 2> /dev/null || true
  find {TREE} -path "$own" -prune -o -name HEAD -print
)
exit $code
"""
"""Git ignores some files in its folder. So the script first removes packs without a valid index,
and refs to missing objects. A tag that is younger than the base commit keeps its name but not its
message.

The history of a submodule, or of another repository in the tree, ends with the commit that is
checked out. A bare repository that the base commit itself tracks stays as it is.
"""
