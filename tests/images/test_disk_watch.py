"""Tests of the space that must stay free while images are pulled."""

from kvci.images.disk_watch import DiskWatch


def test_packed_layers_do_not_count_as_used() -> None:
    """The engine deletes a download after it unpacked the layer. Exempt images have no limit."""
    watch = DiskWatch(floor_bytes=100, exempt={"exempt"})
    downloads = [("a", "Downloading", 30), ("b", "Downloading", 20), ("a", "Downloading", 60)]
    for image, status, current in downloads:
        event = {"id": "layer", "status": status, "progressDetail": {"current": current}}
        watch.record(image, event)
    assert not watch.is_used_up("a", 20) and watch.is_used_up("a", 19)
    assert not watch.is_used_up("exempt", 0)
    watch.record("a", {"id": "layer", "status": "Extracting"})
    assert not watch.is_used_up("b", 20)
    watch.record("a", {"id": "layer", "status": "Pull complete"})
    assert watch.is_used_up("b", 79) and not watch.is_used_up("b", 80)
    watch.forget("b")
    assert watch.is_used_up("b", 99) and not watch.is_used_up("b", 100)
