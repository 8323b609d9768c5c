"""Builds images with the layout of SWE-bench's official images, if those cannot be pulled.

The row names the image. The row's eval_script defines what the image must contain: a conda
environment `testbed` that can be activated, and the repository at the base commit in /testbed. The
layers that most instances share come first, so that only the first image of a version takes long.
"""

import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import git
from docker.errors import BuildError

from kvci.docker import engine
from kvci.errors import UserError
from kvci.images.base import base
from kvci.images.names import engine_name
from kvci.images.recipe import SHIPPED, Recipe, recipes
from kvci.sandbox import TREE
from kvci.tasks.row import Row

BUILT = "kvci.built"
"""The label with the name under which kvci built the image."""
CERTIFICATE_VARIABLES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
"""Environment variables that may name a file of the certificates that this machine trusts."""
ENVIRONMENT = "/opt/miniconda3/envs/testbed"
ACTIVATE = """\
# Shaped as conda's, for a virtual environment.
conda() { [ "$1" = activate ] && . "/opt/miniconda3/envs/$2/bin/activate"; }
"""
DOCKERFILE = """\
FROM {base}
COPY activate /opt/miniconda3/bin/activate
COPY certificates /opt/certificates
RUN python3 -m venv {environment} && echo 'setuptools<71' > /opt/constraints
ENV PIP_CONSTRAINT=/opt/constraints
ARG PIP_CERT=/opt/certificates
RUN . {environment}/bin/activate && pip install -q pip==24.0 setuptools==70.0.0 wheel==0.43.0
RUN . {environment}/bin/activate && pip install -q {packages}
ENV SETUPTOOLS_SCM_PRETEND_VERSION={version}.0
COPY testbed {tree}
RUN cd {tree} && . {environment}/bin/activate && {before} && {install} \\
 && git config --global user.email kvci@localhost && git config --global user.name kvci \\
 && git commit -q --allow-empty -am SWE-bench
LABEL {label}
"""
"""As in the official images, one commit is on top of the base commit. It has the changes that
`before` made."""


@dataclass(frozen=True)
class BuildResult:
    """The result for one image. `why` is empty if the engine has the image."""

    instance: str
    image: str
    why: str = ""


def build(
    rows: Iterable[Row], repositories: Path | None, recipe_file: Path = SHIPPED, workers: int = 2
) -> Iterator[BuildResult]:
    """Build the images that the engine lacks, and yield a result for each row.

    The folder `repositories` contains `<owner>__<name>.git`, or a tar file of it. Without this
    folder, git fetches from GitHub. Raises UserError if no image at all can be built.
    """
    known, rows = recipes(recipe_file), list(rows)
    for suite in {known[key].suite for row in rows if (key := (row.repo, row.version)) in known}:
        base(suite)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(workers) as pool:
        sources = {
            repo: _source(repo, repositories, Path(folder))
            for repo in sorted({row.repo for row in rows})
        }

        def build_one(row: Row) -> BuildResult:
            recipe = known.get((row.repo, row.version))
            if engine.has(row.image):
                return BuildResult(row.instance_id, row.image)
            if recipe is None:
                why = f"{recipe_file.name} has no recipe for {row.repo} {row.version}; add one"
                return BuildResult(row.instance_id, row.image, why)
            try:
                _build(row, recipe, sources[row.repo])
            except BuildError as error:
                log = "".join(part.get("stream", "") for part in error.build_log)
                why = " ".join(f"{log[-300:]} {error.msg}".split())
                return BuildResult(row.instance_id, row.image, why)
            except git.GitCommandError as error:
                why = f"{row.base_commit} cannot be fetched: {' '.join(error.stderr.split())}"
                return BuildResult(row.instance_id, row.image, why)
            return BuildResult(row.instance_id, row.image)

        yield from pool.map(build_one, rows)


def _source(repo: str, repositories: Path | None, scratch: Path) -> str:
    """Return the URL of this repository. Raises UserError if `repositories` lacks it."""
    if repositories is None:
        return f"https://github.com/{repo}"
    bare = repositories / f"{repo.replace('/', '__')}.git"
    packed = bare.with_name(f"{bare.name}.tar")
    if bare.is_dir():
        return bare.resolve().as_uri()
    if not packed.is_file():
        raise UserError(
            f"{repositories} has neither {bare.name} nor {packed.name}; add one of them."
        )
    (scratch / bare.name).mkdir()
    words = ["tar", "--extract", "--file", str(packed), "--directory", str(scratch / bare.name)]
    if subprocess.run(words, capture_output=True).returncode:
        raise UserError(f"{packed} is not a tar file; make it from a bare git repository.")
    found = next((scratch / bare.name).rglob("HEAD"), None)
    if found is None:
        raise UserError(f"{packed} contains no git repository; make it from a bare git repository.")
    return found.parent.as_uri()


def _build(row: Row, recipe: Recipe, source: str) -> None:
    version = re.sub(r"[^0-9.]", "", row.version)
    text = DOCKERFILE.format(
        base=base(recipe.suite),
        environment=ENVIRONMENT,
        packages=" ".join(f"'{package}'" for package in recipe.packages),
        version=version,
        tree=TREE,
        before=recipe.before,
        install=recipe.install,
        label=f"{BUILT}={json.dumps(engine_name(row.image))}",
    )
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as context:
        tree = Path(folder, "testbed")
        _checkout(tree, source, row.base_commit)
        with tarfile.open(fileobj=context, mode="w") as files:
            files.add(tree, "testbed", filter=_owned_by_root)
            for name, content in (
                ("Dockerfile", text.encode()),
                ("activate", ACTIVATE.encode()),
                ("certificates", _certificates()),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                files.addfile(member, io.BytesIO(content))
        context.seek(0)
        engine.client().images.build(
            fileobj=context,
            custom_context=True,
            tag=row.image,
            network_mode="host",
            rm=True,
            forcerm=True,
        )


def _checkout(tree: Path, source: str, commit: str) -> None:
    """Check out one commit without its history, even if no ref of the source names the commit."""
    repository = git.Repo.init(tree, initial_branch="main")
    serve = "git -c uploadpack.allowAnySHA1InWant=true upload-pack"
    repository.git.fetch("--quiet", "--depth=1", f"--upload-pack={serve}", source, commit)
    repository.git.checkout("--quiet", "-B", "main", "FETCH_HEAD")
    Path(repository.git_dir, "FETCH_HEAD").unlink()
    shutil.rmtree(Path(repository.git_dir, "logs"))


def _owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def _certificates() -> bytes:
    """Return the certificates that pip trusts during the build: this machine's, or Debian's."""
    paths = (os.environ.get(name, "") for name in CERTIFICATE_VARIABLES)
    found = next((path for path in paths if Path(path).is_file()), None)
    return Path(found or "/etc/ssl/certs/ca-certificates.crt").read_bytes()
