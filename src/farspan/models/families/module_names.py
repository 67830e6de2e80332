"""Lists of module names as quantized checkpoints write them, asked many times for one name."""

from __future__ import annotations

import re
from collections.abc import Iterable

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
            entry = _ONE_EXPERT.sub(r"\1", name)
            if entry.startswith("re:"):
                self._patterns.append(f"(?:{entry[3:]})")
            elif "*" in entry:
                self._patterns.append(
                    rf"(?:(?:.*\.)?{re.escape(entry).replace(chr(92) + '*', '.*')}(?:\..*)?$)"
                )
            else:
                self._literals.add(entry)
        self._compiled = None

    def match(self, name: str) -> bool:
        """Whether an entry names the module: a run of dotted parts of its name, a glob or a pattern."""
        if self._literals and not self._literals.isdisjoint(_runs(name)):
            return True
        if not self._patterns:
            return False
        if self._compiled is None:
            self._compiled = re.compile("|".join(self._patterns))
        return self._compiled.match(name) is not None


def _runs(name: str) -> Iterable[str]:
    parts = name.split(".")
    for start in range(len(parts)):
        for end in range(start + 1, len(parts) + 1):
            yield ".".join(parts[start:end])
