"""Images shaped as SWE-bench's official ones, built here: for runners that cannot pull them.

The row names the image, and its eval_script says what the image must hold: a conda environment
`testbed` that can be activated, and the repository at the base commit in /testbed. Layers are in
the order of what instances share, so that only the first of a version takes long.
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
from kvci.images.recipe import SHIPPED, Recipe, recipes
from kvci.images.registry import short
from kvci.sandbox import TREE
from kvci.tasks.row import Row

BUILT = "kvci.built"
"""A label: the image was built here, by this recipe."""
BUNDLES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
"""Where this machine says which certificates it trusts, if not Debian's."""
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
"""The commit on top is what the official images have, with what `before` changed in it."""


@dataclass(frozen=True)
class Built:
    """What became of one image; `why` is empty if it is there."""

    instance: str
    image: str
    why: str = ""


def build(
    rows: Iterable[Row], repositories: Path | None, book: Path = SHIPPED, workers: int = 2
) -> Iterator[Built]:
    """Build what is not there, and say of each row what became of it.

    `repositories` holds `<owner>__<name>.git`, or a tar of it; without it they are cloned from
    GitHub. Raises UserError if nothing can be built at all.
    """
    known, some = recipes(book), list(rows)
    for suite in {known[key].suite for row in some if (key := (row.repo, row.version)) in known}:
        base(suite)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(workers) as pool:
        sources = {repo: _source(repo, repositories, Path(folder)) for repo in _repos(some)}

        def one(row: Row) -> Built:
            recipe = known.get((row.repo, row.version))
            if engine.has(row.image):
                return Built(row.instance_id, row.image)
            if recipe is None:
                why = f"no recipe for {row.repo} {row.version}"
                return Built(row.instance_id, row.image, why)
            try:
                _build(row, recipe, sources[row.repo])
            except BuildError as error:
                said = "".join(part.get("stream", "") for part in error.build_log)
                why = " ".join(f"{said[-300:]} {error.msg}".split())
                return Built(row.instance_id, row.image, why)
            except git.GitCommandError as error:
                why = f"{row.base_commit} cannot be had: {' '.join(error.stderr.split())}"
                return Built(row.instance_id, row.image, why)
            return Built(row.instance_id, row.image)

        yield from pool.map(one, some)


def _repos(rows: list[Row]) -> list[str]:
    return sorted({row.repo for row in rows})


def _source(repo: str, repositories: Path | None, scratch: Path) -> str:
    """Where git fetches this repository from."""
    if repositories is None:
        return f"https://github.com/{repo}"
    place = repositories / f"{repo.replace('/', '__')}.git"
    packed = place.with_name(f"{place.name}.tar")
    if place.is_dir():
        return place.resolve().as_uri()
    if not packed.is_file():
        raise UserError(f"{repositories} has neither {place.name} nor {packed.name}.")
    (scratch / place.name).mkdir()
    words = ["tar", "--extract", "--file", str(packed), "--directory", str(scratch / place.name)]
    if subprocess.run(words, capture_output=True).returncode:
        raise UserError(f"{packed} is no tar file; pack a bare git repository.")
    found = next((scratch / place.name).rglob("HEAD"), None)
    if found is None:
        raise UserError(f"{packed} holds no git repository.")
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
        label=f"{BUILT}={json.dumps(short(row.image))}",
    )
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as context:
        tree = Path(folder, "testbed")
        _checkout(tree, source, row.base_commit)
        with tarfile.open(fileobj=context, mode="w") as files:
            files.add(tree, "testbed", filter=_root)
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
    """The commit and nothing else, whatever the source calls it."""
    repository = git.Repo.init(tree, initial_branch="main")
    serve = "git -c uploadpack.allowAnySHA1InWant=true upload-pack"
    repository.git.fetch("--quiet", "--depth=1", f"--upload-pack={serve}", source, commit)
    repository.git.checkout("--quiet", "-B", "main", "FETCH_HEAD")
    Path(repository.git_dir, "FETCH_HEAD").unlink()
    shutil.rmtree(Path(repository.git_dir, "logs"))


def _root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def _certificates() -> bytes:
    """What pip trusts while the image is built: Debian's, or what this machine says."""
    named = (os.environ.get(name, "") for name in BUNDLES)
    found = next((path for path in named if Path(path).is_file()), None)
    return Path(found or "/etc/ssl/certs/ca-certificates.crt").read_bytes()
