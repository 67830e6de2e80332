"""A plain-dict model of a prefix tree: each whole-page prefix of each namespace, and what it holds."""

from __future__ import annotations

from dataclasses import dataclass, field

from farspan.kv.tree.cache_events import Event, Location, Stored
from farspan.kv.tree.radix import Cursor, RadixTree
from farspan.kv.tree.tree_node import path

Tokens = tuple[int, ...]
Prefix = tuple[bytes, Tokens]


@dataclass
class Held:
    """Where a prefix's last page is, and the pages that secondary kinds hold there."""

    location: Location
    page: int
    secondary: dict[int, tuple[Location, int]] = field(default_factory=dict)


class PrefixModel:
    def __init__(self, page_size: int) -> None:
        self.page_size = page_size
        self.held: dict[Prefix, Held] = {}

    def prefixes(self, namespace: bytes, tokens: Tokens) -> list[Prefix]:
        """Every whole-page prefix, shortest first."""
        size = self.page_size
        return [(namespace, tokens[: size * (i + 1)]) for i in range(len(tokens) // size)]

    def matched(self, namespace: bytes, tokens: Tokens, location: Location | None = None) -> list[Prefix]:
        """The leading prefixes that are stored, at any location or at one."""
        found = []
        for prefix in self.prefixes(namespace, tokens):
            held = self.held.get(prefix)
            if held is None or (location is not None and held.location is not location):
                break
            found.append(prefix)
        return found

    def below(self, prefix: Prefix) -> list[Prefix]:
        """The stored prefixes that continue one."""
        name, tokens = prefix
        return [
            (n, t) for n, t in self.held if n == name and len(t) > len(tokens) and t[: len(tokens)] == tokens
        ]

    def by_page(self, kind: int, location: Location) -> dict[int, Prefix]:
        """Page id to prefix, of one kind at one location."""
        if kind == 0:
            return {h.page: p for p, h in self.held.items() if h.location is location}
        return {
            h.secondary[kind][1]: p
            for p, h in self.held.items()
            if kind in h.secondary and h.secondary[kind][0] is location
        }


def content(tree: RadixTree) -> dict[Prefix, Held]:
    """Read everything a tree holds into the model's shape."""
    held: dict[Prefix, Held] = {}
    size = tree.page_size
    for node in tree.nodes():
        above = path(node)
        name = above[-1].key
        tokens: Tokens = ()
        for each in reversed(above[:-1]):
            tokens += tuple(each.tokens.gather(each.start, each.end).tolist())
        pages = node.pages.gather(node.start, node.end).tolist()
        for index, page in enumerate(pages):
            held[name, tokens[: (node.start + index + 1) * size]] = Held(node.location, page)
        for (kind, location), secondary in node.secondary.items():
            for span in secondary:
                for index, page in enumerate(span.pages.tolist()):
                    held[name, tokens[: (span.start + index + 1) * size]].secondary[kind] = (location, page)
    return held


def locked(cursors: list[tuple[Cursor, Prefix]], model: PrefixModel) -> set[Prefix]:
    """The prefixes that a locked cursor keeps."""
    return {
        prefix
        for cursor, (name, tokens) in cursors
        if cursor.locks
        for prefix in model.prefixes(name, tokens)
    }


class Indexer:
    """Follows a tree's events as an external indexer would, and knows nothing else of it."""

    def __init__(self) -> None:
        self.known: dict[int, Prefix] = {}
        self.stored: set[tuple[Prefix, Location]] = set()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Stored):
            name, tokens = (event.namespace, ()) if event.parent is None else self.known[event.parent]
            assert name == event.namespace
            assert len(event.tokens) == len(event.hashes) * event.page_size
            for index, digest in enumerate(event.hashes.tolist()):
                start = index * event.page_size
                tokens = (*tokens, *event.tokens[start : start + event.page_size].tolist())
                assert self.known.setdefault(digest, (name, tokens)) == (name, tokens)
                assert ((name, tokens), event.location) not in self.stored, "stored twice"
                self.stored.add(((name, tokens), event.location))
        else:
            for digest in event.hashes.tolist():
                self.stored.remove((self.known[digest], event.location))
