"""Stand-ins for packages SGLang imports and its memory arithmetic never uses.

SGLang's own planning code is plain Python on torch tensors, but importing it pulls in kernels, servers and
tokenizers. Every package it imports that is not installed is answered with a module whose attributes are all
`Anything`: a class that can be called, subclassed, subscripted, or-ed and used as a decorator. A stand-in
that reached the arithmetic would show as a wrong or missing number, since `Anything` is no number.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from abc import ABCMeta
from collections.abc import Iterable
from types import ModuleType
from typing import Any, ClassVar


class _AnythingType(ABCMeta):
    """The metaclass that lets the class itself answer attributes, subscripts and operators."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("_") and (name.endswith("__") or name.startswith("_abc_")):
            raise AttributeError(name)
        return cls

    def register(cls, *args: Any, **kwargs: Any) -> Any:
        return Anything  # ABCMeta's own takes one class; the stand-ins stand for registries too

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and callable(args[0]) and not kwargs:
            return args[0]  # used as a decorator
        return cls if cls is Anything else super().__call__(*args, **kwargs)

    def __getitem__(cls, item: object) -> Any:
        return cls

    def __setitem__(cls, item: object, value: object) -> None:
        pass

    def __contains__(cls, item: object) -> bool:
        return False

    def __iter__(cls) -> Any:
        return iter(())

    def __bool__(cls) -> bool:
        return False


class Anything(metaclass=_AnythingType):
    """Whatever was asked for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.__dict__.update(kwargs)  # so a record class that derives from a stand-in keeps its fields

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__()


class _StubModule(ModuleType):
    __path__: ClassVar[list[str]] = []
    __version__ = "0.0.0"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return Anything


def _asked_by(package: str) -> bool:
    """Whether the import statement being run stands in `package`."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name != __name__ and not name.startswith("importlib") and name != "_frozen_importlib":
            return bool(name == package or name.startswith(package + "."))
        frame = frame.f_back  # type: ignore[assignment]
    return False


class _StubFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers the packages `asker` imports and nobody has, and those it shall not get (`hidden`)."""

    def __init__(self, asker: str, hidden: frozenset[str]) -> None:
        self._asker = asker
        self._hidden = hidden

    def find_spec(
        self, fullname: str, path: Any = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        top = fullname.partition(".")[0]
        if any(fullname == name or fullname.startswith(name + ".") for name in self._hidden):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        if top == self._asker or top in sys.stdlib_module_names:
            return None
        inside_stub = isinstance(sys.modules.get(top), _StubModule)
        if top not in self._hidden and not inside_stub:
            if not _asked_by(self._asker):
                return None  # other libraries probe for optional packages and must not find any
            if self._exists(fullname):
                return None
            if "." in fullname:
                return None  # a missing part of an installed package: let the import fail as it would
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def _exists(self, fullname: str) -> bool:
        sys.meta_path.remove(self)
        try:
            return importlib.util.find_spec(fullname) is not None
        except ModuleNotFoundError:
            return False
        finally:
            sys.meta_path.insert(0, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _StubModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def install(asker: str, hidden: Iterable[str] = ()) -> None:
    """From now on answer what `asker` imports and is not installed, and all of `hidden`, with stand-ins."""
    sys.meta_path.insert(0, _StubFinder(asker, frozenset(hidden)))
