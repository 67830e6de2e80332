"""Ways to find a prompt's cached prefix: radix tree, hash-chained blocks and a skip list; see kv_structures.py.

The radix tree compares token ids. The other two are keyed by a hash for each page that covers the pages before it
(BLAKE2b, 8 bytes), so a hit on a page is a hit on the prefix; they differ in how a hash is found: a dictionary, as
vLLM's prefix cache has it, or a skip list, O(log n) a page. All three are Python over numpy or the standard library.
Times are CPU time, on one core; each case runs in a process of its own. Memory is the growth of the resident set over
four bytes for each token and for each index (the hashed structures do not keep the tokens).
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from typing import Any

import numpy as np

from farspan.kv.tree.cache_events import chain, namespace_hash
from farspan.kv.tree.radix import RadixTree
from prefix_tree import random_tokens, resident

CHUNK = 8192


class Tree:
    name = "radix tree"

    def __init__(self, page_size: int) -> None:
        self.tree = RadixTree(page_size)
        self.cursor = self.tree.match([]).cursor

    def key(self, tokens: np.ndarray) -> np.ndarray:
        return tokens

    def append(self, keys: np.ndarray, pages: np.ndarray) -> None:
        self.cursor = self.tree.extend(self.cursor, keys, pages).cursor

    def lookup(self, keys: np.ndarray) -> int:
        return len(self.tree.match(keys).pages)


class Hashed:
    """Blocks found by a chained hash in a dictionary."""

    name = "hash-chained blocks"

    def __init__(self, page_size: int) -> None:
        self.page_size = page_size
        self.last = namespace_hash(b"")
        self.make()

    def make(self) -> None:
        self.blocks: dict[int, int] = {}

    def key(self, tokens: np.ndarray) -> list[int]:
        return chain(namespace_hash(b""), tokens, self.page_size).tolist()

    def append(self, keys: np.ndarray, pages: np.ndarray) -> None:
        hashes = chain(self.last, keys, self.page_size).tolist()
        self.last = hashes[-1]
        self.store(hashes, pages.tolist())

    def store(self, hashes: list[int], pages: list[int]) -> None:
        self.blocks.update(zip(hashes, pages, strict=True))

    def lookup(self, keys: list[int]) -> int:
        found = []
        for each in keys:
            page = self.blocks.get(each)
            if page is None:
                break
            found.append(page)
        return len(found)


class SkipList(Hashed):
    """The same blocks in a skip list: a node is [hash, page, next on level 0, next on level 1, ...]."""

    name = "skip list"
    LEVELS = 16  # one in four goes a level up: enough for 4^16 entries

    def make(self) -> None:
        self.head: list[Any] = [-1, -1] + [None] * self.LEVELS
        self.random = random.Random(0)

    def store(self, hashes: list[int], pages: list[int]) -> None:
        for key, page in zip(hashes, pages, strict=True):
            before, node = [], self.head
            for level in range(self.LEVELS + 1, 1, -1):
                after = node[level]
                while after is not None and after[0] < key:
                    node, after = after, after[level]
                before.append(node)
            height = 1
            while height < self.LEVELS and self.random.random() < 0.25:
                height += 1
            new = [key, page]
            for level in range(height):
                left = before[-1 - level]
                new.append(left[level + 2])
                left[level + 2] = new

    def lookup(self, keys: list[int]) -> int:
        found = []
        for key in keys:
            node = self.head
            for level in range(self.LEVELS + 1, 1, -1):
                after = node[level]
                while after is not None and after[0] < key:
                    node, after = after, after[level]
            after = node[2]
            if after is None or after[0] != key:
                break
            found.append(after[1])
        return len(found)


STRUCTURES = {kind.name: kind for kind in (Tree, Hashed, SkipList)}


def measure(name: str, tokens: int, page_size: int) -> dict[str, Any]:
    ids = random_tokens(tokens // page_size * page_size, 0)
    pages = np.arange(len(ids) // page_size, dtype=np.int32)
    structure = STRUCTURES[name](page_size)
    step = max(1, CHUNK // page_size)
    before = resident()
    busy = time.process_time()
    for at in range(0, len(pages), step):
        structure.append(ids[at * page_size : (at + step) * page_size], pages[at : at + step])
    insert = time.process_time() - busy
    grown = resident() - before

    def timed(prompt: np.ndarray, expected: int) -> tuple[float, float]:
        start = time.process_time()
        keys = structure.key(prompt)
        middle = time.process_time()
        found = structure.lookup(keys)
        end = time.process_time()
        assert found == expected, f"{found} of {expected} pages found"
        return middle - start, end - middle

    hashing, lookup = timed(ids.copy(), len(pages))
    halfway = ids.copy()
    halfway[len(ids) // 2 // page_size * page_size] = -1
    half = timed(halfway, len(pages) // 2)
    chunk = timed(ids[: step * page_size].copy(), step)
    return {
        "structure": name,
        "tokens": tokens,
        "page_size": page_size,
        "insert_s": insert,
        "hash_ms": 1e3 * hashing,
        "lookup_ms": 1e3 * lookup,
        "half_hit_ms": 1e3 * sum(half),
        "first_chunk_ms": 1e3 * sum(chunk),
        "stored_over_payload": grown / (4 * (len(ids) + len(pages))),
    }


def compare(lengths: tuple[int, ...], page_size: int) -> list[dict[str, Any]]:
    """One row a structure and length, each from a process of its own."""
    rows = []
    for tokens in lengths:
        for name in STRUCTURES:
            command = [sys.executable, __file__, json.dumps([name, tokens, page_size])]
            rows.append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))
    return rows


if __name__ == "__main__":
    print(json.dumps(measure(*json.loads(sys.argv[1]))))
