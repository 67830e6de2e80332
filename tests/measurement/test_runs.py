from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.errors import InputError
from farspan.measurement.http.request_status import Status
from farspan.measurement.http.target import ServerInfo
from farspan.measurement.runs.run_folder import Identity, RunInfo, RunStore, load_run, new_start, open_run
from samples import make_result

IDENTITY = Identity("m", "completions", "ids", "needle", 7, False)


def open_at(folder: Path, *, resume: bool = False, identity: Identity = IDENTITY) -> RunStore:
    return open_run(folder, identity, new_start({}, ServerInfo("http://127.0.0.1:1", "m")), resume=resume)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    results = (make_result(), make_result(repeat=1, status=Status.CUT, error="<gone> “quoted”\n"))
    with open_at(tmp_path / "a" / "b") as store:
        for result in results:
            store.add(result)
        info = store.info
    run = load_run(tmp_path / "a" / "b")
    assert run.results == results
    assert isinstance(info, RunInfo)
    assert run.info == info
    assert run.info.starts[0].environment["farspan"]


def test_a_result_is_on_disk_before_add_returns(tmp_path: Path) -> None:
    with open_at(tmp_path / "run") as store:
        store.add(make_result())
        assert len(load_run(tmp_path / "run").results) == 1


def test_a_folder_in_use_is_refused_without_resume(tmp_path: Path) -> None:
    with open_at(tmp_path) as store:
        store.add(make_result())
    with pytest.raises(InputError, match="--resume"):
        open_at(tmp_path)
    with open_at(tmp_path, resume=True) as store:
        assert len(store.results) == 1
    assert len(load_run(tmp_path).info.starts) == 2


def test_a_foreign_folder_is_refused_even_with_resume(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    for resume in (False, True):
        with pytest.raises(InputError):
            open_at(tmp_path, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(InputError):
        open_at(tmp_path / "thesis.tex")


def test_a_run_killed_in_its_first_moment_can_be_resumed(tmp_path: Path) -> None:
    (tmp_path / "requests.jsonl").touch()
    (tmp_path / "run.tmp").write_text("{")
    with open_at(tmp_path, resume=True) as store:
        assert store.results == []


def test_two_writers_are_refused(tmp_path: Path) -> None:
    with open_at(tmp_path) as store:
        store.add(make_result())
        with pytest.raises(InputError, match="another farspan"):
            open_at(tmp_path, resume=True)
    assert len(load_run(tmp_path).info.starts) == 1


def test_another_kind_of_run_is_not_mixed_in(tmp_path: Path) -> None:
    open_at(tmp_path).close()
    with pytest.raises(InputError, match="model 'm', not 'n'"):
        open_at(tmp_path, resume=True, identity=replace(IDENTITY, model="n"))


def test_a_later_try_replaces_an_earlier_one(tmp_path: Path) -> None:
    with open_at(tmp_path) as store:
        store.add(make_result(status=Status.CUT))
        store.add(make_result(repeat=1))
        store.add(make_result(status=Status.OK))
        assert [result.status for result in store.latest()] == [Status.OK, Status.OK]
    run = load_run(tmp_path)
    assert [(result.repeat, result.status) for result in run.results] == [(0, Status.OK), (1, Status.OK)]


@settings(max_examples=60)
@given(kept=st.integers(0, 3), lost=st.integers(1, 10_000))
def test_a_torn_last_line_is_dropped_and_not_continued(
    tmp_path_factory: pytest.TempPathFactory, kept: int, lost: int
) -> None:
    folder = tmp_path_factory.mktemp("torn")
    with open_at(folder) as store:
        for repeat in range(kept + 1):
            store.add(make_result(repeat=repeat))
    path = folder / "requests.jsonl"
    data = path.read_bytes()
    last = data.rstrip(b"\n").rfind(b"\n") + 1
    path.write_bytes(data[: last + (len(data) - last - 1) * lost // 10_001])
    assert [result.repeat for result in load_run(folder).results] == list(range(kept))
    with open_at(folder, resume=True) as store:
        assert len(store.results) == kept
        store.add(make_result(repeat=kept))
    assert [result.repeat for result in load_run(folder).results] == list(range(kept + 1))


def test_damage_before_the_last_line_is_named(tmp_path: Path) -> None:
    with open_at(tmp_path) as store:
        store.add(make_result())
        store.add(make_result(repeat=1))
    path = tmp_path / "requests.jsonl"
    path.write_bytes(b'{"oops": 1}\n' + path.read_bytes())
    with pytest.raises(InputError, match="line 1"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"format": 99}', '{"format": 1, "identity": {}, "starts": []}']
)
def test_an_unreadable_run_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="not a run"):
        load_run(tmp_path)
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputError, match=r"run\.json"):
        load_run(tmp_path)


def test_results_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    """`most_at_once` was called `company`; there was no concurrency of a request, and no note of what had left."""
    result = make_result(most_at_once=8)
    with open_at(tmp_path) as store:
        store.add(result)
    path = tmp_path / "requests.jsonl"
    document = orjson.loads(path.read_bytes())
    document["company"] = document.pop("most_at_once")
    del document["concurrency"]
    path.write_bytes(orjson.dumps(document) + b"\n")
    (tmp_path / "sent.jsonl").unlink()
    assert load_run(tmp_path).results == (result,)
    with open_at(tmp_path, resume=True) as store:
        assert not store.times_sent


def test_a_later_start_knows_what_had_left(tmp_path: Path) -> None:
    one, two = make_result().job, make_result(repeat=1).job
    with open_at(tmp_path) as store:
        store.note_sent(one)
        store.note_sent(two)
        store.add(make_result())
    with (tmp_path / "sent.jsonl").open("ab") as file:
        file.write(b'{"context":1')  # torn by a crash
    with open_at(tmp_path, resume=True) as store:
        assert (store.times_sent[one], store.times_sent[two], store.times_sent[replace(one, repeat=7)]) == (
            1,
            1,
            0,
        )
        store.note_sent(two)
    with open_at(tmp_path, resume=True) as store:
        assert store.times_sent[two] == 2
    assert one.with_fresh_seed(0) == one
    assert len({one.with_fresh_seed(n).prompt_seed for n in range(4)}) == 4
