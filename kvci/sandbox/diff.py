"""The script that makes the diff of a hostile work tree. The model cannot influence the script.

The tree's hooks, filters, fsmonitor, external diffs, attributes and ignore rules have no effect.
The model could not write the git folder that the script uses, and the index is new. While the
script reads the tree, the .gitattributes and .gitignore files are those of the base commit. The
model's changes to these files are added to the diff afterwards.
"""

import shlex
from collections.abc import Iterable

from kvci.sandbox.interface import TREE, DiffFailed, Limits, Result

PATCH_MAX_BYTES = 16 << 20
LIMITS = Limits(wall_s=120, cpu_s=240, output_mib=64, kept_bytes=4 * PATCH_MAX_BYTES)
BUILD_PRODUCTS = ("__pycache__", "*.pyc", "*.egg-info", "build", "dist", ".pytest_cache")
"""What a build makes. A patch contains only those of these files that the base commit has."""
PRODUCT_FOLDERS = ("*.egg-info", "build", "dist")
"""The folders in BUILD_PRODUCTS that may hold source. If the base commit has files in such a
folder, a patch includes new files there."""
BASE_FOLDERS = r"""
folders=()
while IFS= read -r -d '' path; do
  before=''
  while [[ $path == */* ]]; do
    before=$before${path%%/*}/
    case ${path%%/*} in @FOLDERS@) folders+=(":(literal)$before"); break ;; esac
    path=${path#*/}
  done
done < <(git ls-files -z -- @PATHS@)
""".replace("@FOLDERS@", "|".join(PRODUCT_FOLDERS)).replace(
    "@PATHS@", shlex.join(f":(glob)**/{name}/**" for name in PRODUCT_FOLDERS)
)
NESTED_REPOSITORIES = r"""
nested=()
while IFS= read -r -d '' path; do
  if [ -f "$path" ] || [ -e "$path/HEAD" ]; then
    path=${path%/.git}; nested+=(":(exclude,literal)${path#./}")
  fi
done < <(find . -mindepth 2 -name .git -prune -print0)
"""
"""Finds repositories and work trees that the model made: a patch leaves out new files in them."""
BASE_RULES = r"""
rules=(':(glob)**/.gitattributes' ':(glob)**/.gitignore')
find . -name .git -prune -o ! -type d \( -name .gitattributes -o -name .gitignore \) -print0 \
  > $scratch/rules
count=0
while IFS= read -r -d '' path; do
  if [ -f "$path" ] && [ ! -L "$path" ]; then cp -- "$path" "$scratch/rule.$count"; fi
  rm -rf -- "$path"
  count=$((count + 1))
done < $scratch/rules
git ls-files -z -- "${rules[@]}" > $scratch/base-rules
while IFS= read -r -d '' path; do
  folder=$(dirname -- "$path")
  if [ -d "$path" ]; then continue; fi
  if [ -d "$folder" ] && [ "$(realpath -- "$folder")" = "$(realpath -m -s -- "$folder")" ]; then
    git cat-file blob ":$path" > "$path"
  fi
done < $scratch/base-rules
"""
"""Replaces the model's rule files by those of the base commit, never through a symlink."""
MODEL_RULES = r"""
while IFS= read -r -d '' path; do
  git update-index --force-remove -- "$path"
done < $scratch/base-rules
count=0
while IFS= read -r -d '' path; do
  path=${path#./}
  if git cat-file -e "HEAD:$path" 2> /dev/null || ! git check-ignore -q --no-index -- "$path"; then
    if [ -e "$scratch/rule.$count" ]; then
      blob=$(git hash-object -w --no-filters -- "$scratch/rule.$count")
      git update-index --add --cacheinfo "100644,$blob,$path"
    fi
  fi
  count=$((count + 1))
done < $scratch/rules
"""
"""Puts the model's rule files into the index, so that the diff shows them. A new one is left out if
the rules of the base commit ignore it, like any other new file."""


def script(git_folder: str, scratch: str, exclude: tuple[str, ...]) -> str:
    """Return a bash script that prints the diff. `scratch` is its folder for objects and index."""
    tests = shlex.join(f":(exclude,literal){path}" for path in exclude)
    products = _without(BUILD_PRODUCTS)
    files = _without(name for name in BUILD_PRODUCTS if name not in PRODUCT_FOLDERS)
    git = f"git --git-dir={git_folder} --work-tree={TREE} -c core.hooksPath=/dev/null"
    git += " -c core.fsmonitor=false -c core.attributesFile=/dev/null -c core.quotePath=true"
    git += " -c core.excludesFile=/dev/null -c core.symlinks=true -c safe.directory='*'"
    git += " -c core.protectNTFS=false -c core.protectHFS=false"
    return (
        f"set -e; cd {TREE}; mkdir -p {scratch}/objects\n"
        f"chmod -R u+rwX {TREE}\n"
        f"export GIT_ALTERNATE_OBJECT_DIRECTORIES={git_folder}/objects"
        f" GIT_OBJECT_DIRECTORY={scratch}/objects GIT_INDEX_FILE={scratch}/index"
        " GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null GIT_ATTR_NOSYSTEM=1\n"
        f'git() {{ command {git} "$@"; }}; scratch={scratch}\n'
        f"git read-tree HEAD\n{BASE_FOLDERS}{NESTED_REPOSITORIES}{BASE_RULES}"
        f"git add -u -- . {tests} > /dev/null 2>&1\n"
        f'git add -A -- . {tests} {products} "${{nested[@]}}" > /dev/null 2>&1\n'
        'if [ "${#folders[@]}" -gt 0 ]; then\n'
        f'  git ls-files -z -o --exclude-standard -- "${{folders[@]}}" {tests} {files}'
        ' "${nested[@]}" |\n'
        "    sed -z '/\\/$/d' | git update-index --add -z --stdin > /dev/null 2>&1\n"
        "fi\n"
        "mapfile -d '' -t binary < <(git diff --cached --numstat -z --no-renames HEAD -- |"
        " sed -z -n 's/^-\\t-\\t/:(exclude,literal)/p')\n"
        "shown='--cached --no-ext-diff --no-textconv --no-color --no-renames'\n"
        "git diff $shown --ignore-submodules=all HEAD -- ."
        f' "${{binary[@]}}" {tests}\n'
        f"{MODEL_RULES}"
        f'git diff $shown --text --diff-filter=a HEAD -- "${{rules[@]}}" {tests}\n'
        f'git diff $shown --text --diff-filter=A HEAD -- "${{rules[@]}}" {tests} {products}'
        ' "${nested[@]}"\n'
    )


def _without(names: Iterable[str]) -> str:
    """Return git path arguments that leave out these names and everything below them."""
    return shlex.join(f":(exclude,glob)**/{name}{end}" for name in names for end in ("", "/**"))


def patch_of(done: Result) -> bytes:
    """Return the diff that the script printed, cut at PATCH_MAX_BYTES.

    Raises DiffFailed if the script failed or took too long.
    """
    if done.timed_out:
        raise DiffFailed("the work tree is too large for a diff")
    if done.output_bytes > PATCH_MAX_BYTES:
        return done.output[:PATCH_MAX_BYTES]
    if done.code:
        raise DiffFailed(f"git could not make the diff: {done.output[-300:]!r}")
    return done.output
