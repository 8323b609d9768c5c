"""Pulls from a real registry that fails as registries do."""

import base64
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import requests

from kvci.docker import engine
from kvci.docker.engine import OWNER
from kvci.errors import UserError
from kvci.images import image_cache, in_flight, pull
from kvci.images import registry as asked
from kvci.images.build import BUILT
from kvci.images.commands import _built, _goes
from kvci.images.history import name_of
from kvci.images.pull import Entry, Mirror, NoRoom, Puller
from kvci.images.registry import Login
from kvci.sandbox import Limits
from kvci.sandbox.container import Docker
from kvci.threads import background
from tests.answers import answer
from tests.images.registry import NOTHING_TOLD, Fault, Handler, Registry, serving
from tests.made_images import calibration_image

REPOSITORY, TOLD = "kvci-test/pulled", "kvci-test/told"
"""Of the second the git history has something to strip."""
LAYER_BYTES = 1 << 20
FILL = f"head -c {LAYER_BYTES} /dev/urandom > /layer"
HOLD = """
import sys, time
from kvci.images import locks
locks.hold(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    base = calibration_image()
    with serving() as one:
        for repository, change in ((TOLD, FILL), (REPOSITORY, f"{FILL}; {NOTHING_TOLD}")):
            box = Docker(base, {"a.py": "x = 1\n"})
            assert box.script(change, Limits()).code == 0
            made = box._container.commit("kvci-test", "push", conf={"Labels": {OWNER: ""}})
            box.close()
            one.push("kvci-test:push", repository)
            engine.client().images.remove(made.id, force=True)
        yield one


@pytest.fixture
def image(registry: Registry) -> Iterator[str]:
    """A name that the engine does not have, before and after."""
    registry.fault = None
    registry.asked.clear()
    name = f"{registry.address}/{REPOSITORY}:latest"
    yield name
    let_go(name)
    assert not engine.has(name)


def let_go(name: str) -> None:
    for kept in image_cache.ours():
        if name in kept.names:
            assert image_cache.let_go(kept)


def fail(seconds: float, status: int, wait: str = "") -> Fault:
    """Manifests are answered so, for so long from now."""
    until = time.monotonic() + seconds

    def fault(handler: Handler) -> bool:
        if "/manifests/" not in handler.path or time.monotonic() > until:
            return False
        handler.refuse(status, {"Retry-After": wait} if wait else None)
        return True

    return fault


def drip(handler: Handler) -> bool:
    """A blob that comes a byte a second."""
    if "/blobs/" not in handler.path:
        return False
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    with contextlib.suppress(OSError):
        for _ in range(30):
            handler.wfile.write(b"x")
            time.sleep(1)
    handler.close_connection = True
    return True


def everything() -> set[str]:
    return {one["Id"] for one in engine.client().api.images(all=True)}


def test_an_image_is_pulled_marked_as_ours_and_goes_whole(image: str) -> None:
    """It is stripped, and takes what both take."""
    image = image.replace(REPOSITORY, TOLD)
    before, said = everything(), list[str]()
    entry = Puller(say=said.append).pull(image, "HEAD")
    assert (entry.state, entry.attempts, said) == ("pulled", 1, [])
    assert image_cache.is_ours(image) and engine.has(name_of(image, "HEAD"))
    (kept,) = [one for one in image_cache.ours() if image in one.names]
    assert kept.id == entry.id and LAYER_BYTES < kept.unshared_bytes < 2 * LAYER_BYTES
    assert len(everything() - before) == 2
    assert Entry.model_validate_json(entry.model_dump_json()) == entry
    assert image_cache.let_go(kept) and everything() == before


@pytest.mark.parametrize(("status", "wait"), [(429, "4"), (429, ""), (500, "")])
def test_what_passes_is_tried_again(registry: Registry, image: str, status: int, wait: str) -> None:
    registry.fault = fail(1.5, status, wait)
    said: list[str] = []
    began = time.monotonic()
    entry = Puller(say=said.append).pull(image, "HEAD")
    assert (entry.state, entry.attempts) == ("pulled", 2)
    assert time.monotonic() - began > (4 if wait else 2)
    assert f"the next try in {wait or 2} s" in said[0]


def test_cut_connections_and_silence_are_tried_again(registry: Registry, image: str) -> None:
    seen: list[str] = []

    def fault(handler: Handler) -> bool:
        if "/blobs/" not in handler.path or len(seen) >= 2:
            return False
        seen.append(handler.path)
        if len(seen) == 2:
            time.sleep(90)  # an engine may stay with it, whoever has given up
        handler.close_connection = True
        handler.connection.close()
        return True

    registry.fault = fault
    entry = Puller(say=lambda _: None, stall_s=8).pull(image, "HEAD")
    assert entry.state == "pulled" and len(seen) == 2 and entry.attempts > 1


def test_what_does_not_pass_is_said(registry: Registry, image: str, tmp_path: Path) -> None:
    absent = Puller(patience_s=1).pull(f"{registry.address}/kvci-test/none-429:latest", "HEAD")
    assert absent.state == "absent" and "unknown" in absent.why
    assert Puller(patience_s=1).pull(f"{registry.address}/Not/A-Name:x", "HEAD").state == "absent"
    registry.fault = fail(60, 503)
    failed = Puller(patience_s=1, say=lambda _: None).pull(image, "HEAD")
    assert failed.state == "failed" and failed.attempts == 1
    registry.fault = fail(60, 429)
    limited = Puller(patience_s=1, say=lambda _: None).pull(image, "HEAD")
    assert limited.state == "failed" and "slow down" in limited.why


def test_whoever_meets_a_limit_makes_all_wait(registry: Registry, image: str) -> None:
    registry.fault = fail(1, 429, "4")
    said: list[str] = []
    puller = Puller(say=said.append)
    limited = background(puller.pull, image, "HEAD")
    while not said:
        time.sleep(0.05)
    before = list(registry.asked)
    other = background(puller.pull, f"{registry.address}/kvci-test/none:latest", "HEAD")
    time.sleep(2.5)
    assert registry.asked == before
    assert (limited.result().state, other.result().state) == ("pulled", "absent")


def test_a_cache_that_cannot_be_written_is_a_sentence(
    image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was taken for Docker's failing, and tried for 15 minutes."""
    monkeypatch.setenv("KVCI_CACHE", "/proc/kvci")
    with pytest.raises(UserError, match=r"/proc/kvci/pulling cannot be written .*KVCI_CACHE"):
        Puller().pull(image, "HEAD")


def test_who_waits_for_another_s_limit_loses_no_patience(registry: Registry, image: str) -> None:
    puller, late = Puller(patience_s=3, say=lambda _: None), fail(5, 500)
    puller.gate.close(4)
    registry.fault = late
    assert puller.pull(image, "HEAD").state == "pulled"


def test_patience_is_had_once_until_an_image_comes(registry: Registry, image: str) -> None:
    """Each image of a registry that was away cost it anew: for SWE-bench Lite a day and more."""
    puller = Puller(patience_s=3.0, say=lambda _: None)
    registry.fault = fail(60.0, 500)
    entries = [puller.pull(image, "HEAD") for _ in range(3)]
    assert [(one.state, one.attempts) for one in entries] == [
        ("failed", 2),
        ("failed", 1),
        ("failed", 1),
    ]
    registry.fault = None
    assert puller.pull(image, "HEAD").state == "pulled"
    let_go(image)
    registry.fault = fail(1.0, 500)
    assert puller.pull(image, "HEAD").attempts == 2


def test_a_limit_that_lets_images_come_is_no_reason_to_give_up(
    registry: Registry, image: str
) -> None:
    puller = Puller(patience_s=5.5, say=lambda _: None)
    registry.fault = fail(5, 429)
    waits = background(puller.pull, image, "HEAD")
    for _ in range(4):
        time.sleep(1)
        puller.gate.came = time.monotonic()  # as another image's pull says
    assert waits.result().state == "pulled"


def test_a_limit_is_waited_for_as_long_as_its_window(registry: Registry, image: str) -> None:
    until = time.monotonic() + 3

    def fault(handler: Handler) -> bool:
        if time.monotonic() < until:
            handler.refuse(429, {"ratelimit-remaining": "0;w=6"})
        return time.monotonic() < until

    registry.fault = fault
    assert Puller(patience_s=1, say=lambda _: None).pull(image, "HEAD").state == "pulled"


def test_a_limit_without_a_wait_is_given_up_too(registry: Registry, image: str) -> None:
    registry.fault = fail(60, 429, "0")
    entry = Puller(patience_s=3, say=lambda _: None).pull(image, "HEAD")
    assert entry.state == "failed" and entry.attempts <= 3 and entry.seconds < 30


def test_what_a_mirror_has_not_is_asked_of_the_registry(registry: Registry, image: str) -> None:
    seen: list[str] = []

    def fault(handler: Handler) -> bool:
        if "/manifests/" not in handler.path or len(seen) >= 2:
            return False
        seen.append(handler.path)
        body = b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}'
        answer(handler, 404, body)
        return True

    registry.fault = fault
    entry = Puller(mirror=Mirror(registry.address), say=lambda _: None).pull(image, "HEAD")
    assert entry.state == "pulled" and seen


def test_a_mirror_that_is_down_is_asked_no_more(
    registry: Registry, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull, "MIRROR_PATIENCE_S", 1.0)
    said: list[str] = []
    puller = Puller(mirror=Mirror("localhost:1"), say=said.append)
    direct = image.replace(registry.address, registry.real)
    for name in (image, direct, image):
        assert puller.pull(name, "HEAD").state == "pulled"
    let_go(direct)
    assert len(said) == 1 and "localhost:1 is given up" in said[0]


@pytest.mark.long
def test_a_mirror_that_hangs_is_passed_by(
    registry: Registry, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its silence was taken for Docker's."""
    monkeypatch.setattr(pull, "MIRROR_PATIENCE_S", 1.0)
    monkeypatch.setattr(pull, "MIRROR_STALL_S", 5.0)
    until = time.monotonic() + 30

    def hangs(handler: Handler) -> bool:
        if "/blobs/" in handler.path:
            time.sleep(max(0.0, until - time.monotonic()))
        return False

    registry.fault = hangs
    mirror = Mirror(registry.address)
    direct = image.replace(registry.address, registry.real)
    entry = Puller(mirror=mirror, say=lambda _: None).pull(direct, "HEAD")
    let_go(direct)
    assert entry.state == "pulled" and mirror.failed == {direct}
    assert entry.seconds < 30, "its own registry was asked"


def test_what_is_denied_is_not_asked_for_again_and_again(registry: Registry, image: str) -> None:
    def denies(handler: Handler) -> bool:
        body = b'{"errors": [{"code": "DENIED", "message": "requested access is denied"}]}'
        answer(handler, 403, body)
        return True

    registry.fault = denies
    entry = Puller(say=lambda _: None).pull(image, "HEAD")
    assert (entry.state, entry.attempts) == ("failed", pull.DENIED_TRIES)
    assert "docker login" in entry.why, entry.why


def test_what_came_with_the_last_word_is_ours(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time was over, and nobody knew the image any more."""
    listened = Puller._listen

    def late(self: Puller, source: str, image: str) -> None:
        listened(self, source, image)
        raise NoRoom("the disk is short now")

    monkeypatch.setattr(Puller, "_listen", late)
    assert Puller().pull(image, "HEAD").state == "failed"
    assert image_cache.is_ours(image)


def test_what_somebody_pulls_while_kvci_waits_stays_theirs(registry: Registry, image: str) -> None:
    """Its name was taken for what is without its future, its digest was gone, and it was let go."""
    image = image.replace(REPOSITORY, TOLD)
    theirs: list[tuple[str, list[str]]] = []

    def meanwhile(_: str) -> None:
        registry.fault = None
        found = engine.client().images.pull(*image.rsplit(":", 1))
        theirs.append((found.id, found.attrs["RepoDigests"]))

    registry.fault = fail(60, 429, "1")
    try:
        assert Puller(say=meanwhile).pull(image, "HEAD").state == "pulled"
        found = engine.client().images.get(image)
        assert [(found.id, found.attrs["RepoDigests"])] == theirs
        assert not image_cache.is_ours(image) and engine.has(name_of(image, "HEAD"))
        assert image not in [name for kept in image_cache.ours() for name in kept.names]
    finally:
        stripped = name_of(image, "HEAD")
        for name in (image, stripped):
            engine.client().images.remove(name)


def test_one_image_s_fault_or_docker_s_is_not_the_mirror_s(
    registry: Registry, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull, "MIRROR_PATIENCE_S", 1.0)
    registry.fault = fail(60, 500)
    mirror = Mirror(registry.address)
    puller = Puller(mirror=mirror, patience_s=1, say=lambda _: None)
    direct = image.replace(registry.address, registry.real)
    for _ in range(2):
        registry.asked.clear()
        assert puller.pull(direct, "HEAD").state == "pulled" and registry.asked
        let_go(direct)

    def away(*_: object) -> Iterator[dict[str, object]]:
        raise requests.ConnectionError("nobody is there")

    monkeypatch.setattr(Puller, "_events", away)
    monkeypatch.setattr(engine, "answers", lambda: False)
    gone = puller.pull(image, "HEAD")
    assert gone.state == "failed" and gone.why.startswith("Docker:")
    assert mirror.failed == {direct} and not mirror.is_down()


def test_no_pull_goes_beyond_the_time_budget(registry: Registry, image: str) -> None:
    for fault, why in ((fail(60, 503), "503"), (fail(60, 429, "50"), "slow down"), (drip, "")):
        registry.fault = fault
        began = time.monotonic()
        entry = Puller(say=lambda _: None, until_s=began + 3).pull(image, "HEAD")
        assert time.monotonic() - began < 8
        assert entry.state == "failed" and entry.why.startswith("the time budget is over")
        assert why in entry.why
    registry.asked.clear()
    assert Puller(until_s=time.monotonic()).pull(image, "HEAD").attempts == 0 and not registry.asked


def test_an_image_that_another_process_needs_is_not_let_go(image: str) -> None:
    Puller().pull(image, "HEAD")
    (kept,) = [one for one in image_cache.ours() if image in one.names]
    with subprocess.Popen([sys.executable, "-c", HOLD, image], stdout=subprocess.PIPE) as other:
        assert other.stdout and other.stdout.readline() == b"held\n"
        assert (
            not image_cache.free_to_go(kept) and not image_cache.let_go(kept) and engine.has(image)
        )
        other.kill()
    assert image_cache.free_to_go(kept)


@pytest.mark.long
def test_many_may_ask_for_sizes_at_once(image: str) -> None:
    Puller().pull(image, "HEAD")
    box = Docker(image, {})  # with a container it takes an older engine seconds
    try:
        with ThreadPoolExecutor(4) as pool:
            found = [
                future.result() for future in [pool.submit(image_cache.ours) for _ in range(4)]
            ]
    finally:
        box.close()
    assert all(image in {name for one in kept for name in one.names} for kept in found)


def test_the_reserve_is_never_used(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Puller(reserve_bytes=1 << 60).pull(image, "HEAD")
    assert entry.state == "failed" and "reserve" in entry.why and not engine.has(image)


def test_a_mirror_is_asked_in_place_of_the_registry(registry: Registry) -> None:
    registry.fault = None
    name = f"registry.invalid/{REPOSITORY}:latest"
    there = f"{registry.address}/{REPOSITORY}:latest"
    try:
        entry = Puller(mirror=Mirror(registry.address)).pull(name, "HEAD")
        assert entry.state == "pulled" and image_cache.is_ours(name) and not engine.has(there)
        engine.client().images.get(calibration_image()).tag(there)
        Puller(mirror=Mirror(registry.address)).pull(name, "HEAD")
        assert engine.has(there), "somebody had given something that name"
    finally:
        engine.client().images.remove(there)
        let_go(name)


def test_what_is_another_s_is_never_let_go(image: str) -> None:
    Puller().pull(image, "HEAD")
    engine.client().images.get(image).tag("kvci-test", "mine")
    try:
        assert not [one for one in image_cache.ours() if image in one.names]
    finally:
        engine.client().images.remove("kvci-test:mine")
    box = Docker(image, {})
    try:
        (kept,) = [one for one in image_cache.ours() if image in one.names]
        assert not image_cache.let_go(kept)
        assert engine.has(image), "it lost its name, and stayed"
    finally:
        box.close()


def test_of_what_kvci_built_only_its_own_name_goes_and_only_when_nobody_needs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What others had named or made of it went too, and what a run needed."""
    images, name = engine.client().images, "kvci-test/built:latest"
    box = Docker(calibration_image(), {"a.py": ""})
    conf = {"Labels": {BUILT: name}}
    try:
        built = box._container.commit("kvci-test/built", "latest", conf=conf)
        theirs = box._container.commit("kvci-test/theirs", "latest", conf=conf)
    finally:
        box.close()
    built.tag("kvci-test/named", "latest")
    found = [images.get(one) for one in (built.id, theirs.id)]
    monkeypatch.setattr(type(images), "list", lambda *_, **__: found)
    try:
        with subprocess.Popen([sys.executable, "-c", HOLD, name], stdout=subprocess.PIPE) as other:
            assert other.stdout and other.stdout.readline() == b"held\n"
            assert not any(map(_goes, _built())) and engine.has(name)
            other.kill()
        assert list(map(_goes, _built())) == [True] and not engine.has(name)
        assert engine.has("kvci-test/named") and engine.has("kvci-test/theirs")
    finally:
        for one in (built, theirs):
            images.remove(one.id, force=True)


def test_the_registry_is_asked_by_the_head_alone(registry: Registry, image: str) -> None:
    assert asked.ask(image).status == 200
    assert [line.split()[0] for line in registry.asked] == ["HEAD"]
    assert asked.ask(image.replace("pulled", "none")).status == 404
    registry.fault = fail(60, 429, "7")
    assert (asked.ask(image).status, asked.ask(image).wait_s) == (429, 7)
    assert asked.ask("localhost:1/none:latest").status == 0
    assert asked.parts("debian") == ("docker.io", "library/debian", "latest")


def test_a_registry_that_the_engine_trusts_is_asked_as_the_engine_does(
    image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = image.replace("localhost", "127.1")
    host = asked.parts(elsewhere)[0]
    assert asked.ask(elsewhere).status == 0
    config = {"RegistryConfig": {"IndexConfigs": {host: {"Secure": False}}}}
    monkeypatch.setattr(engine.client(), "info", lambda: config)
    assert asked.ask(elsewhere).status == 200


@pytest.mark.parametrize("name", ["", "Bad Name:x", "a//b", "localhost:1/-x"])
def test_what_is_no_image_s_name_is_a_sentence(name: str) -> None:
    with pytest.raises(UserError, match="is no image's name"):
        asked.short(name)


@pytest.mark.parametrize("mirrored", [False, True])
def test_what_a_killed_kvci_pulled_is_ours(
    image: str, mirrored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed when it had come, before it was marked."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    name = image.replace("localhost", "127.0.0.1") if mirrored else image
    monkeypatch.setattr(Puller, "_take", killed)
    mirror = Mirror(asked.parts(image)[0]) if mirrored else None
    with pytest.raises(KeyboardInterrupt):
        Puller(mirror).pull(name, "HEAD")
    assert engine.has(image) and not image_cache.is_ours(image)
    assert not any(image in kept.names for kept in image_cache.ours()), "its process lives"
    monkeypatch.setattr(in_flight, "ended", lambda process: True)
    assert any(image in kept.names for kept in image_cache.ours()) and not in_flight.left()


def test_what_somebody_pulled_after_a_killed_kvci_is_theirs(
    image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(in_flight, "ended", lambda process: True)
    monkeypatch.setattr(Puller, "_listen", killed)
    for elsewhere in (False, True):
        with pytest.raises(KeyboardInterrupt):
            Puller().pull(image, "HEAD")
        engine.client().images.pull(*image.rsplit(":", 1))
        monkeypatch.setattr(in_flight, "SOON", timedelta(minutes=1 if elsewhere else -1))
        if elsewhere:
            monkeypatch.setattr(engine, "identity", lambda: "another")
        assert not any(image in kept.names for kept in image_cache.ours())
        engine.client().images.remove(image)
    monkeypatch.undo()
    assert not in_flight.left()


def test_a_name_has_one_form_as_the_engine_has_it() -> None:
    engine.client().images.get(calibration_image()).tag("kvci-test/named", "latest")
    try:
        for name in ("docker.io/kvci-test/named:latest", "kvci-test/named"):
            assert asked.short(name) == "kvci-test/named:latest" and engine.has(name)
        assert not engine.has("docker.io/kvci-test/named:1") and not engine.has("Not/A-Name:x")
    finally:
        engine.client().images.remove("kvci-test/named:latest")
    assert asked.short("localhost:5000/x/y") == "localhost:5000/x/y:latest"
    for wrong in (f"x@sha256:{'0' * 64}", "-a.b/c", "http://x/y"):
        with pytest.raises(UserError, match="dataset"):
            asked.short(wrong)


TOKEN = 'Bearer realm="http://{address}/token",service="here",scope="repository:x:pull"'


def test_a_token_is_asked_for_with_the_login(registry: Registry, image: str) -> None:
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
    mine = Login("me", "secret", registry.address)
    assert asked.ask(image, mine).status == 200
    assert Puller(login=mine).pull(image, "HEAD").state == "pulled"


def test_what_docker_login_left_is_told_too(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = base64.b64encode(b"me:secret").decode()
    kept = {"auths": {registry.address: {"auth": key}}, "credHelpers": {"gone.invalid": "nope"}}
    (tmp_path / "config.json").write_text(json.dumps(kept))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert asked.kept(registry.address) == Login("me", "secret", registry.address)
    assert asked.kept("gone.invalid") is None and asked.kept("docker.io") is None


def test_a_login_is_told_to_its_registry_alone(registry: Registry, image: str) -> None:
    told: list[str] = []

    def fault(handler: Handler) -> bool:
        told.extend(handler.headers.get_all("authorization", []))
        handler.refuse(401, {"WWW-Authenticate": 'Basic realm="here"'})
        return True

    registry.fault = fault
    for known in (Login("me", "secret"), Login("me", "secret", registry.address)):
        asked.ask(image, known)
        Puller(login=known, patience_s=0.1, say=lambda _: None).pull(image, "HEAD")
        assert bool(told) == (known.registry == registry.address)


def test_a_download_that_is_not_unpacked_yet_is_no_part_of_an_image() -> None:
    """It goes when its layer is unpacked; of a wave's first images nothing is asked."""
    room = pull.Room(floor_bytes=100, first={"first"})
    some = [("a", "Downloading", 30), ("b", "Downloading", 20), ("a", "Downloading", 60)]
    for image, status, current in some:
        said = {"id": "layer", "status": status, "progressDetail": {"current": current}}
        room.hear(image, said)
    assert not room.is_used_up("a", 20) and room.is_used_up("a", 19)
    assert not room.is_used_up("first", 0)
    room.hear("a", {"id": "layer", "status": "Extracting"})
    assert not room.is_used_up("b", 20)
    room.hear("a", {"id": "layer", "status": "Pull complete"})
    assert room.is_used_up("b", 79) and not room.is_used_up("b", 80)
    room.forget("b")
    assert room.is_used_up("b", 99) and not room.is_used_up("b", 100)
