"""The diff of a hostile work tree, as a script that runs where the model cannot interfere.

Hooks, filters, fsmonitor, external diffs, attributes and ignore rules of the tree do nothing: the
git folder is one that the model could not write, the index is new, and while the tree is read its
.gitattributes and .gitignore files are those of the base. What the model made of them comes after.
"""

import shlex

from kvci.sandbox import TREE, DiffFailed, Limits, Result

PATCH_MAX_BYTES = 16 << 20
LIMITS = Limits(wall_s=120, cpu_s=240, output_mib=64, kept_bytes=4 * PATCH_MAX_BYTES)
PRODUCTS = ("__pycache__", "*.pyc", "*.egg-info", "build", "dist", ".pytest_cache")
"""What a build makes: where the base has no such file, it is no part of a patch."""
FOLDERS = ("*.egg-info", "build", "dist")
"""Of them the folders; where the base has files in one, what is new there is no product."""
FOLDERS_OF_THE_BASE = r"""
folders=()
while IFS= read -r -d '' path; do
  before=''
  while [[ $path == */* ]]; do
    before=$before${path%%/*}/
    case ${path%%/*} in @FOLDERS@) folders+=(":(literal)$before"); break ;; esac
    path=${path#*/}
  done
done < <(git ls-files -z -- @PATHS@)
""".replace("@FOLDERS@", "|".join(FOLDERS)).replace(
    "@PATHS@", shlex.join(f":(glob)**/{name}/**" for name in FOLDERS)
)
NESTED = r"""
nested=()
while IFS= read -r -d '' path; do
  if [ -f "$path" ] || [ -e "$path/HEAD" ]; then
    path=${path%/.git}; nested+=(":(exclude,literal)${path#./}")
  fi
done < <(find . -mindepth 2 -name .git -prune -print0)
"""
"""Repositories and work trees of the model's own: what is new in them is no part of a patch."""
RULES_OF_THE_BASE = r"""
rules=(':(glob)**/.gitattributes' ':(glob)**/.gitignore')
find . -name .git -prune -o \( -name .gitattributes -o -name .gitignore \) -print0 > $scratch/rules
count=0
while IFS= read -r -d '' path; do
  if [ -f "$path" ] && [ ! -L "$path" ]; then cp -- "$path" "$scratch/rule.$count"; fi
  rm -rf -- "$path"
  count=$((count + 1))
done < $scratch/rules
git ls-files -z -- "${rules[@]}" > $scratch/base-rules
while IFS= read -r -d '' path; do
  folder=$(dirname -- "$path")
  if [ -d "$folder" ] && [ "$(realpath -- "$folder")" = "$(realpath -m -s -- "$folder")" ]; then
    git cat-file blob ":$path" > "$path"
  fi
done < $scratch/base-rules
"""
"""The model's rule files are put aside, and the base's in their place; not through a link."""
RULES_OF_THE_MODEL = r"""
while IFS= read -r -d '' path; do
  git update-index --force-remove -- "$path"
done < $scratch/base-rules
count=0
while IFS= read -r -d '' path; do
  if [ -e "$scratch/rule.$count" ]; then
    blob=$(git hash-object -w --no-filters -- "$scratch/rule.$count")
    git update-index --add --cacheinfo "100644,$blob,${path#./}"
  fi
  count=$((count + 1))
done < $scratch/rules
"""


def script(git_folder: str, scratch: str, exclude: tuple[str, ...]) -> str:
    """A bash script that writes the diff; `scratch` is an empty folder for objects and index."""
    tests = shlex.join(f":(exclude,literal){path}" for path in exclude)
    products, small = (
        shlex.join(f":(exclude,glob)**/{name}{end}" for name in some for end in ("", "/**"))
        for some in (PRODUCTS, [name for name in PRODUCTS if name not in FOLDERS])
    )
    git = f"git --git-dir={git_folder} --work-tree={TREE} -c core.hooksPath=/dev/null"
    git += " -c core.fsmonitor=false -c core.attributesFile=/dev/null -c core.quotePath=true"
    git += " -c core.excludesFile=/dev/null -c core.symlinks=true -c safe.directory='*'"
    return (
        f"set -e; cd {TREE}; mkdir -p {scratch}/objects\n"
        f"chmod -R u+rwX {TREE}\n"
        f"export GIT_ALTERNATE_OBJECT_DIRECTORIES={git_folder}/objects"
        f" GIT_OBJECT_DIRECTORY={scratch}/objects GIT_INDEX_FILE={scratch}/index"
        " GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null GIT_ATTR_NOSYSTEM=1\n"
        f'git() {{ command {git} "$@"; }}; scratch={scratch}\n'
        f"git read-tree HEAD\n{FOLDERS_OF_THE_BASE}{NESTED}{RULES_OF_THE_BASE}"
        f"git add -u -- . {tests} > /dev/null 2>&1\n"
        f'git add -A -- . {tests} {products} "${{nested[@]}}" > /dev/null 2>&1\n'
        'if [ "${#folders[@]}" -gt 0 ]; then\n'
        f'  git ls-files -z -o --exclude-standard -- "${{folders[@]}}" {tests} {small}'
        ' "${nested[@]}" |\n'
        "    sed -z '/\\/$/d' | git update-index --add -z --stdin > /dev/null 2>&1\n"
        "fi\n"
        "mapfile -d '' -t binary < <(git diff --cached --numstat -z --no-renames HEAD -- |"
        " sed -z -n 's/^-\\t-\\t/:(exclude,literal)/p')\n"
        "shown='--cached --no-ext-diff --no-textconv --no-color --no-renames'\n"
        "git diff $shown --ignore-submodules=all HEAD -- ."
        f' "${{binary[@]}}" {tests}\n'
        f"{RULES_OF_THE_MODEL}"
        f'git diff $shown --text HEAD -- "${{rules[@]}}" {tests}\n'
    )


def patch_of(done: Result) -> bytes:
    """The diff that the script wrote. Raises DiffFailed if it wrote none."""
    if done.timed_out:
        raise DiffFailed("the work tree is too large for a diff")
    if done.output_bytes > PATCH_MAX_BYTES:
        return done.output[:PATCH_MAX_BYTES]
    if done.code:
        raise DiffFailed(f"git could not make the diff: {done.output[-300:]!r}")
    return done.output
