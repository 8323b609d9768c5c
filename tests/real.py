"""The image of one real SWE-bench Lite instance, built by hand where the registry is out of reach.

Needs the package index, and the instance's base commit from the data beside the project. The row's
own image name is given to it, so that nothing else has to know.
"""

import io
import os
import tarfile
import tempfile
from pathlib import Path

from kvci.sandbox import docker
from tests.conftest import data
from tests.images import calibration_image, client_has

INSTANCE = "pallets__flask-5063"
IMAGE = "swebench/sweb.eval.x86_64.pallets_1776_flask-5063:latest"
PINS = "click==8.1.3 itsdangerous==2.1.2 Jinja2==3.1.2 MarkupSafe==2.1.1 Werkzeug==2.3.7"
PINS += " pytest==7.4.4 python-dotenv==1.0.0"
ACTIVATE = """conda() { [ "$1" = activate ] && . /opt/miniconda3/envs/$2/bin/activate; }
"""
DOCKERFILE = f"""
FROM {{base}}
COPY certificates /etc/ssl/certs/ca-certificates.crt
COPY repository /repository
RUN git init -q -b main /testbed && cd /testbed \\
 && git fetch -q --depth 1 file:///repository refs/instances/{INSTANCE} \\
 && git checkout -q -B main FETCH_HEAD && rm -rf /repository
COPY activate /opt/miniconda3/bin/activate
RUN python3 -m venv /opt/miniconda3/envs/testbed && echo 'setuptools<71' > /constraints
ENV PIP_CONSTRAINT=/constraints SETUPTOOLS_SCM_PRETEND_VERSION=2.3.0
ARG PIP_CERT=/etc/ssl/certs/ca-certificates.crt
RUN cd /testbed && . /opt/miniconda3/envs/testbed/bin/activate \\
 && python -m pip install -q 'pip<24.1' 'setuptools<71' wheel && pip install -q {PINS} \\
 && pip install -q -e .
"""


def flask_image() -> str:
    """Skips without Docker or the data."""
    base = calibration_image()
    archive = data("repos/pallets__flask.git.tar")
    if client_has(IMAGE):
        return IMAGE
    certificates = Path(os.environ.get("PIP_CERT", "/etc/ssl/certs/ca-certificates.crt"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with tarfile.open(archive) as repository:
            repository.extractall(folder / "unpacked", filter="data")
        (bare,) = {path.parent for path in (folder / "unpacked").rglob("HEAD") if path.is_file()}
        context = io.BytesIO()
        with tarfile.open(fileobj=context, mode="w") as files:
            files.add(bare, "repository")
            files.add(certificates.resolve(), "certificates")
            for path, text in (
                ("Dockerfile", DOCKERFILE.format(base=base)),
                ("activate", ACTIVATE),
            ):
                member = tarfile.TarInfo(path)
                member.size = len(text)
                files.addfile(member, io.BytesIO(text.encode()))
        context.seek(0)
        docker.client().images.build(
            fileobj=context, custom_context=True, tag=IMAGE, network_mode="host", rm=True
        )
    return IMAGE
