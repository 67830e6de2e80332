"""Which files a corpus is read from: text as it is; of JSON lines and packed files the text, unpacked once and kept."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

import orjson

from farspan.errors import InputError, NotFoundError, UnsupportedError
from farspan.prompts.cache import cache_folder, replace_file

TEXT_FIELD = "text"

_PACKED: dict[str, Callable[[Path, str], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_LINES = (".jsonl", ".ndjson")
_TABLES = {".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow"}
_HUB = re.compile(
    r"(?:(?:https://huggingface\.co/datasets|hf://datasets)/)?(?P<id>[\w.-]+/[\w.-]+)/?(?:tree/\S*)?"
)
_GIVE = "give a text file, JSON lines, or a folder with such"
_BLOCK = 2**20


@dataclass(frozen=True, slots=True)
class CorpusFiles:
    """Files of plain text.

    Attributes:
        files: In the order in which they are read.
        left_out: Files of a folder that hold no text.
    """

    files: tuple[Path, ...]
    left_out: tuple[Path, ...] = ()


def find_corpus_files(path: str | Path, field: str | None = None) -> CorpusFiles:
    """Find the files that a corpus is made of.

    Args:
        path: A file, or a folder whose files are taken in the order of their names.
        field: The field of JSON records that holds the text, `a.b` for one inside another; "text" when None.

    Raises:
        NotFoundError: There is no such file or folder.
        UnsupportedError: A file is of a kind that farspan cannot read.
        InputError: A file is unreadable, its records have no such field, or nothing holds text.
    """
    root = Path(path).expanduser()
    if not root.exists():
        raise _missing(str(path))
    if root.is_file():
        candidates = [root]
    else:
        candidates = [
            file for file in sorted(root.rglob("*")) if file.is_file() and not _is_hidden(file, root)
        ]
    tables = [file for file in candidates if file.suffix.lower() in _TABLES]
    if tables:
        raise _is_table(root, tables[0])
    files, left_out, records = [], [], 0
    for file in candidates:
        start = _read_start(file)
        inner = Path(file.stem).suffix.lower() if file.suffix.lower() in _PACKED else file.suffix.lower()
        is_array = inner == ".json" and file == root and start.lstrip()[:1] == b"["
        if b"\0" in start:
            left_out.append(file)
        elif not start.strip():
            continue
        elif inner in _LINES or is_array:
            records += 1
            files.append(_unpack(file, field or TEXT_FIELD, is_array=is_array, has_records=True))
        elif file.suffix.lower() in _PACKED:
            files.append(_unpack(file, "", is_array=False, has_records=False))
        else:
            files.append(file)
    if not files:
        raise InputError(f"{root} holds no text", _GIVE)
    if field is not None and not records:
        raise InputError(
            f"--corpus-field {field} is of JSON records, and {root} is plain text", "leave it out"
        )
    return CorpusFiles(tuple(files), tuple(left_out))


def _is_hidden(file: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(root).parts)


def _open(file: Path) -> IO[bytes]:
    opened: IO[bytes] = _PACKED.get(file.suffix.lower(), open)(file, "rb")
    return opened


def _read_start(file: Path) -> bytes:
    try:
        with _open(file) as opened:
            return opened.read(4096)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise InputError(
            f"{file} cannot be read ({getattr(error, 'strerror', None) or error})", _GIVE
        ) from error


def _unpack(file: Path, field: str, *, is_array: bool, has_records: bool) -> Path:
    """Return a file with the text alone, made now if it is not in the cache."""
    state = file.stat()
    named = f"1 {file.resolve()} {state.st_size} {state.st_mtime_ns} {field}"
    target = cache_folder() / "corpus" / f"{blake2b(named.encode(), digest_size=16).hexdigest()}.txt"

    def write(draft: Path) -> None:
        with draft.open("wb") as out:
            if has_records:
                out.writelines(
                    text.encode("utf-8", "replace") + b"\n\n" for text in _texts(file, field, is_array)
                )
            else:
                with _open(file) as packed:
                    while block := packed.read(_BLOCK):
                        out.write(block)

    if not target.exists():
        try:
            replace_file(target, write)
        except (OSError, EOFError, lzma.LZMAError) as error:
            raise InputError(
                f"the text of {file} cannot be set apart in {target.parent} ({error})",
                "see that the file is whole and the disk has space, or set XDG_CACHE_HOME",
            ) from error
    if not target.stat().st_size:
        target.unlink()
        raise InputError(f"the field {field!r} of {file} holds no text", "name another with --corpus-field")
    return target


def _texts(file: Path, field: str, is_array: bool) -> Iterator[str]:
    names = field.split(".")
    for number, record in enumerate(_records(file, is_array), 1):
        texts = list(_texts_of(record, names))
        if None not in texts:
            yield from filter(None, texts)
            continue
        there = list(dict.fromkeys(_text_fields(record)))
        found = f"but {', '.join(there)[:200]}" if there else "nor any other"
        raise InputError(
            f"{'record' if is_array else 'line'} {number} of {file} has no text in a field {field!r}, {found}",
            f"name another with --corpus-field{f', such as {there[0]}' if there else ''}",
        )


def _records(file: Path, is_array: bool) -> Iterator[Any]:
    with _open(file) as opened:
        if is_array:
            import ijson  # type: ignore[import-untyped]

            try:
                yield from ijson.items(opened, "item")
            except ijson.JSONError as error:
                raise InputError(
                    f"{file} is no JSON ({error})", "name it .txt to have it read as it is"
                ) from error
            return
        for number, line in enumerate(opened, 1):
            if not line.strip():
                yield ""
                continue
            try:
                yield orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise InputError(
                    f"line {number} of {file} is no JSON ({error})",
                    "name the file .txt to have it read as it is",
                ) from error


def _texts_of(record: Any, names: list[str]) -> Iterator[str | None]:
    """Yield the texts of one record, None where it has no such field; a list on the way stands for its entries."""
    if isinstance(record, list):
        for entry in record:
            yield from _texts_of(entry, names)
    elif isinstance(record, dict) and names and names[0] in record:
        yield from _texts_of(record[names[0]], names[1:])
    elif record is None:
        yield ""
    else:
        yield record if isinstance(record, str) else None


def _text_fields(record: Any, before: str = "") -> Iterator[str]:
    """Yield the fields of a record that hold text, those inside others with a point."""
    if isinstance(record, list):
        for entry in record[:1]:
            yield from _text_fields(entry, before)
    elif isinstance(record, dict):
        for name, value in record.items():
            yield from _text_fields(value, f"{before}.{name}" if before else name)
    elif isinstance(record, str):
        yield before


def _missing(path: str) -> InputError:
    hub = _HUB.fullmatch(path)
    if hub is not None and not path.startswith((".", "/", "~")) and not Path(path).suffix:
        return NotFoundError(
            f"{path} is neither a file nor a folder here, and farspan reads no data sets from the Hugging Face hub",
            f"pip install datasets, then {_convert(repr(hub['id']), hub['id'])}; some want a configuration's name "
            "behind theirs",
        )
    if re.match(r"https?://", path):
        name = path.rstrip("/").rpartition("/")[2].partition("?")[0] or "corpus.txt"
        return NotFoundError(f"{path} is no file here", f"curl -L -o {name} {path}, then --corpus {name}")
    return NotFoundError(f"{path} does not exist", _GIVE)


def _is_table(root: Path, table: Path) -> UnsupportedError:
    kind = _TABLES[table.suffix.lower()]
    words = repr(str(root)) if root.is_dir() else f"{kind!r}, data_files={str(root)!r}"
    return UnsupportedError(
        f"{table} is {kind}, which farspan does not read",
        f"pip install datasets, then {_convert(words, root.stem)}",
    )


def _convert(words: str, name: str) -> str:
    target = f"{name.rpartition('/')[2]}.jsonl"
    code = f"from datasets import load_dataset; load_dataset({words}, split='train').to_json('{target}')"
    return f'python -c "{code}", and --corpus {target}'
