"""Lists of module names as quantized checkpoints write them, asked many times for one name."""

from __future__ import annotations

import re
from collections.abc import Iterable

# What families call the MLP of a layer, and what checkpoints put before its number: neither tells layers apart.
_BLOCK = re.compile(r"\.(block_sparse_moe|feed_forward)\b")
_PREFIX = re.compile(r"^(?:(?:model|language_model|backbone|decoder|thinker|llm)\.)*layers\.")
_ONE_EXPERT = re.compile(r"(\.experts)\.\d+(\..*)?$")


class ModuleNames:
    """Module names, dotted parts of names, `*` globs and `re:` patterns.

    Args:
        names: The entries. One expert of a layer stands for all of them.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.everything = False
        self.experts_only = False
        self._literals: set[str] = set()
        self._patterns: list[str] = []
        self._compiled: re.Pattern[str] | None = None
        self.extend(names)

    @classmethod
    def all(cls) -> ModuleNames:
        """Every projection of the layers."""
        found = cls()
        found.everything = True
        return found

    @classmethod
    def experts(cls) -> ModuleNames:
        """The routed experts."""
        found = cls()
        found.experts_only = True
        return found

    def extend(self, names: Iterable[str]) -> None:
        """Add entries."""
        for name in names:
            entry = _plain(_ONE_EXPERT.sub(r"\1", name))
            if entry.startswith("re:"):
                self._patterns.append(f"(?:{name[3:]})")
            elif "*" in entry:
                self._patterns.append(
                    rf"(?:(?:.*\.)?{re.escape(entry).replace(chr(92) + '*', '.*')}(?:\..*)?$)"
                )
            else:
                self._literals.add(entry)
        self._compiled = None

    def match(self, name: str) -> bool:
        """Whether an entry names the module: a run of dotted parts of its name, a glob or a pattern."""
        plain = _plain(name)
        if self._literals and not self._literals.isdisjoint(_runs(plain)):
            return True
        if not self._patterns:
            return False
        if self._compiled is None:
            self._compiled = re.compile("|".join(self._patterns))
        return any(self._compiled.match(spelling) is not None for spelling in {name, plain})


def _plain(name: str) -> str:
    """A name or pattern without what families and wrappers call the same thing by."""
    return _PREFIX.sub("layers.", _BLOCK.sub(".mlp", name)) if not name.startswith("re:") else name


def _runs(name: str) -> Iterable[str]:
    parts = name.split(".")
    for start in range(len(parts)):
        for end in range(start + 1, len(parts) + 1):
            yield ".".join(parts[start:end])
