"""Plays a random load on SGLang's prefix tree and on farspan's.

`tree_process.py FOLDER SEED STEPS`, JSON out: what happened and the tokens each found, with and without window layers,
with pages of 1 and 16 tokens, with memory to spare and without.
"""

from __future__ import annotations

import json
import logging
import random
import sys
from typing import Any

from tree_world import World, start_sglang
from tree_world_0_5_23 import World23


def prompts(chance: random.Random, documents: list[list[int]]) -> list[int]:
    """A prompt that shares its beginning with others: of a document, another's, or its own."""
    document = chance.choice(documents)
    kept = document[: chance.choice([len(document), chance.randint(1, len(document)), 40])]
    own = [chance.randint(0, 50) for _ in range(chance.choice([1, 3, 60, 300]))]
    if chance.random() < 0.2:
        documents[chance.randrange(len(documents))] = (kept + own)[:2500]
    return kept + own


def count(owner: Any, name: str, of: Any, into: list[int]) -> None:
    """Count what a method is called with."""
    method = getattr(owner, name)

    def counted(*given: Any) -> Any:
        into[0] += of(given)
        return method(*given)

    setattr(owner, name, counted)


def play(
    kind: type[World], seed: int, steps: int, window: int | None, pressure: bool, page: int
) -> dict[str, Any]:
    chance = random.Random(seed)
    sizes = ((9600, 2880) if window else (4000, 0)) if pressure else (400_000, 400_000)
    worlds = [kind(tree, sizes, window, page) for tree in ("sglang", "farspan")]
    documents = [[chance.randint(0, 50) for _ in range(chance.choice([30, 400, 1500]))] for _ in range(6)]
    tree = worlds[1].cache.tree
    moved, evicted = [0], [0]
    count(tree.owner, "move_window", lambda given: len(given[0]), moved)
    count(tree, "evict", lambda given: 1, evicted)
    counts = dict.fromkeys(("admitted", "refused", "chunks", "decoded", "finished", "aborted", "released"), 0)
    state: dict[int, str] = {}
    asked = 0
    for step in range(steps):
        what = chance.random()
        if what < 0.2 and len(state) < 6:
            prompt, answer = prompts(chance, documents), chance.choice([1, 20, 200])
            extra = chance.choice([None, None, "a"])
            found = [world.admit(step, prompt, answer, extra) for world in worlds]
            if None in found:
                counts["refused"] += 1
                for world, hit in zip(worlds, found, strict=True):
                    if hit is not None:
                        world.finish(step, False)
            else:
                asked += len(prompt)
                counts["admitted"] += 1
                state[step] = "prefill"
                if not pressure:
                    assert found[0] == found[1], f"hits differ: {found}"
        elif what < 0.6 and "prefill" in state.values():
            name = chance.choice([each for each in state if state[each] == "prefill"])
            chunk = chance.choice([7, 64, 200, 256])
            if {world.prefill(name, chunk) for world in worlds} == {True}:
                state[name] = "decode"
            counts["chunks"] += 1
        elif what < 0.93 and "decode" in state.values():
            name = chance.choice([each for each in state if state[each] == "decode"])
            for _ in range(chance.choice([1, 5, 30])):
                if len(worlds[0].running[name].output_ids) < worlds[0].running[name].answer:
                    token = chance.randint(0, 50)
                    for world in worlds:
                        world.decode(name, token, early=1 + step % 9)
                    counts["decoded"] += 1
            if chance.random() < 0.2 and window:
                for world in worlds:
                    world.release_window(name)
                counts["released"] += 1
        elif state and what > 0.93:
            name = chance.choice(sorted(state))
            insert = state.pop(name) == "decode" and chance.random() < 0.8
            one = worlds[0].running[name]
            if insert and len(one.hashes) < 2500 and chance.random() < 0.7:  # a conversation goes on
                documents[chance.randrange(len(documents))] = list(one.origin_input_ids + one.output_ids)
            for world in worlds:
                world.finish(name, insert)
            counts["finished" if insert else "aborted"] += 1
        for world in worlds:
            world.check()
        if not pressure:
            free = [world.free() for world in worlds]
            assert free[0] == free[1], f"free slots differ after {counts}: {free}"
    for name in list(state):
        for world in worlds:
            world.finish(name, False)
            world.check()
    from farspan.integrations.sglang.prefix_tree.tree_checks import check_tree_slots

    check_tree_slots(worlds[1].cache.tree)
    assert worlds[1].cache.protected_size() == worlds[1].cache.swa_protected_size() == 0
    counts |= {"windows_moved": moved[0], "evictions": evicted[0]}
    return {"counts": counts, "asked": asked, "hits": [world.hits for world in worlds]}


def main(folder: str, seed: int, steps: int) -> list[dict[str, Any]]:
    logging.disable(logging.CRITICAL)
    start_sglang(folder)
    kind = World23 if folder.endswith("0.5.23") else World
    answers = []
    for pressure in (False, True):
        for window in (None, 64 if pressure else 30):
            for page in (1, 16):
                played = play(kind, seed, steps, window, pressure, page)
                answers.append({"pressure": pressure, "window": bool(window), "page": page} | played)
    return answers


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], *map(int, sys.argv[2:]))))
