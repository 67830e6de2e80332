import threading
from pathlib import Path

import pytest

from farspan.prompts.cache import cache_folder, publish_folder


def test_the_cache_is_where_xdg_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "farspan"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "farspan"


def test_a_folder_is_complete_or_absent(tmp_path: Path) -> None:
    def fail(draft: Path) -> None:
        (draft / "half").write_text("half")
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        publish_folder(tmp_path / "a", fail)
    assert list(tmp_path.iterdir()) == []


def test_whoever_is_first_wins(tmp_path: Path) -> None:
    barrier = threading.Barrier(4)

    def make(number: int) -> None:
        def write(draft: Path) -> None:
            (draft / "content").write_text(str(number))
            barrier.wait()

        publish_folder(tmp_path / "a", write)

    threads = [threading.Thread(target=make, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a" / "content").read_text() in {"0", "1", "2", "3"}
