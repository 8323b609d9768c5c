"""Tests image names, logins, and the request about one image to a registry."""

import base64
import json
from pathlib import Path

import pytest

from kvci.docker import engine
from kvci.errors import UserError
from kvci.images.logins import Login, docker_login
from kvci.images.names import engine_name, parse_name
from kvci.images.pull import Puller
from kvci.images.registry import ask
from tests.answers import answer
from tests.images.registry import Handler, Registry, fail
from tests.made_images import calibration_image

TOKEN = 'Bearer realm="http://{address}/token",service="here",scope="repository:x:pull"'


def test_the_registry_gets_only_head_requests(registry: Registry, image: str) -> None:
    assert ask(image).status == 200
    assert [line.split()[0] for line in registry.requests] == ["HEAD"]
    assert ask(image.replace("pulled", "none")).status == 404
    registry.fault = fail(60, 429, "7")
    assert (ask(image).status, ask(image).wait_s) == (429, 7)
    assert ask("localhost:1/none:latest").status == 0
    assert parse_name("debian") == ("docker.io", "library/debian", "latest")


def test_a_trusted_insecure_registry_is_asked(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = image.replace("localhost", "127.1")
    host = parse_name(elsewhere)[0]
    assert ask(elsewhere).status == 0
    config = {"RegistryConfig": {"IndexConfigs": {host: {"Secure": False}}}}
    monkeypatch.setattr(engine.client(), "info", lambda: config)
    assert ask(elsewhere).status == 200


@pytest.mark.parametrize("name", ["", "Bad Name:x", "a//b", "localhost:1/-x"])
def test_an_invalid_image_name_is_one_clear_error(name: str) -> None:
    with pytest.raises(UserError, match="is not a valid image name"):
        engine_name(name)


def test_name_is_parsed_like_dockers() -> None:
    engine.client().images.get(calibration_image()).tag("kvci-test/named", "latest")
    try:
        for name in ("docker.io/kvci-test/named:latest", "kvci-test/named"):
            assert engine_name(name) == "kvci-test/named:latest" and engine.has(name)
        assert not engine.has("docker.io/kvci-test/named:1") and not engine.has("Not/A-Name:x")
    finally:
        engine.client().images.remove("kvci-test/named:latest")
    assert engine_name("localhost:5000/x/y") == "localhost:5000/x/y:latest"
    for wrong in (f"x@sha256:{'0' * 64}", "-a.b/c", "http://x/y"):
        with pytest.raises(UserError, match="dataset"):
            engine_name(wrong)


def test_a_token_is_requested_with_the_login(registry: Registry, image: str) -> None:
    def fault(handler: Handler) -> bool:
        if handler.path.startswith("/token"):
            assert handler.headers["authorization"] == "Basic bWU6c2VjcmV0"
            answer(handler, 200, b'{"token": "abc"}')
            return True
        if handler.headers["authorization"] == "Bearer abc":
            return False
        handler.refuse(401, {"WWW-Authenticate": TOKEN.format(address=registry.address)})
        return True

    registry.fault = fault
    known = Login("me", "secret", registry.address)
    assert ask(image, known).status == 200
    assert Puller(login=known).pull(image, "HEAD").state == "pulled"


def test_a_stored_docker_login_is_used(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = base64.b64encode(b"me:secret").decode()
    config = {"auths": {registry.address: {"auth": key}}, "credHelpers": {"gone.invalid": "nope"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert docker_login(registry.address) == Login("me", "secret", registry.address)
    assert docker_login("gone.invalid") is None and docker_login("docker.io") is None


def test_a_login_goes_only_to_its_registry(registry: Registry, image: str) -> None:
    sent: list[str] = []

    def fault(handler: Handler) -> bool:
        sent.extend(handler.headers.get_all("authorization", []))
        handler.refuse(401, {"WWW-Authenticate": 'Basic realm="here"'})
        return True

    registry.fault = fault
    for known in (Login("me", "secret"), Login("me", "secret", registry.address)):
        ask(image, known)
        Puller(login=known, patience_s=0.1, say=lambda _: None).pull(image, "HEAD")
        assert bool(sent) == (known.registry == registry.address)
