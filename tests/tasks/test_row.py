"""Read rows from files, and refuse files that are not valid."""

import json
import subprocess
from pathlib import Path

import pytest

from kvci.errors import UserError
from kvci.tasks.calibration import generate
from kvci.tasks.row import load, patched_files
from tests.conftest import data

OLD = {"instance_id": "a__b-1", "repo": "a/b", "patch": "", "FAIL_TO_PASS": "[]"}


def test_jsonl_and_parquet_give_the_same_rows(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = [generate("test", seed).row for seed in range(3)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(row.model_dump_json() + "\n" for row in rows))
    assert load(path) == rows
    table = pyarrow.Table.from_pylist([json.loads(row.model_dump_json()) for row in rows])
    parquet.write_table(table, tmp_path / "rows.parquet")
    assert load(tmp_path / "rows.parquet") == rows


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("old.jsonl", json.dumps(OLD), "old format.*v5"),
        ("broken.jsonl", "{", "Line 1 .* not a JSON object"),
        ("short.jsonl", '{"image": "x"}', "Row 1 .* is not valid"),
        (
            "path.jsonl",
            generate("test", 0).row.model_dump_json().replace("calibration__", "../"),
            "instance_id",
        ),
        (
            "option.jsonl",
            json.dumps(
                json.loads(generate("test", 0).row.model_dump_json())
                | {"base_commit": "--upload-pack=touch /tmp/x; git-upload-pack"}
            ),
            "base_commit",
        ),
        ("rows.csv", "", "give a .jsonl or a .parquet file"),
        ("rows.parquet", "no", "not a parquet file"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        load(tmp_path / name)


def test_a_duplicate_instance_is_refused(tmp_path: Path) -> None:
    (tmp_path / "twice.jsonl").write_text((generate("test", 1).row.model_dump_json() + "\n") * 2)
    with pytest.raises(UserError, match="twice"):
        load(tmp_path / "twice.jsonl")


def test_swe_bench_lite_has_300_rows() -> None:
    rows = load(data("swe-bench-lite.v5.jsonl"))
    assert len(rows) == 300
    flask = next(row for row in rows if row.instance_id == "pallets__flask-5063")
    assert (len(flask.FAIL_TO_PASS), len(flask.PASS_TO_PASS)) == (2, 54)


def test_only_a_newline_ends_a_line(tmp_path: Path) -> None:
    row = generate("test", 0).row.model_copy(update={"problem_statement": "a\u2028b\u0085c"})
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row.model_dump(mode="json"), ensure_ascii=False) + "\n")
    assert load(path) == [row]
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="Line 1"):
        load(path)


def test_files_of_patch_are_those_that_git_names(tmp_path: Path) -> None:
    """Earlier, a form feed in a line made a head, and quoted names were not seen."""
    names = ["a.py", "d\tx/conftest.py", "ü é.py", 'with "quotes".py', "b b/x.py"]
    git = ["git", "-c", "user.name=x", "-c", "user.email=x", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("ok\fdiff --git a/gold.py b/gold.py\n")
    subprocess.run([*git, "add", "-A"], check=True)
    done = subprocess.run([*git, "diff", "--cached"], check=True, capture_output=True)
    assert patched_files(done.stdout.decode()) == set(names)


@pytest.mark.parametrize("name", [r"\N{foo}.py", r"\x", r"\u12", r"\999", "\ud83d", "\\"])
def test_names_that_git_does_not_write_raise_nothing(name: str) -> None:
    assert len(patched_files(f'diff --git "a/x" "b/{name}"\n')) == 1
