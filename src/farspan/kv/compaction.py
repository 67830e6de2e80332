"""Pages moved down inside their pool: the last resort when a few of them keep a segment that others need.

A page never moves while there is room. But a kind of layers that needs few pages may hold one of them high up, because
prefixes that are gone by now held the lower ones, and with it a segment in each of its layers. When nothing is left to
evict, such a page is copied to a free one below, and the tables that name it are changed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from farspan.kv.kinds import LayerKind
from farspan.kv.sequence_pages import PageTable


def compact(kind: LayerKind, tables: Sequence[PageTable]) -> bool:
    """Move the pages of the highest segment that has any into free pages of lower ones; all or none.

    Only pages with a single user move, which must be one of `tables`; call it between steps.

    =====================  ===================  =========================  ==============
    references             before               moved                      not moved
    =====================  ===================  =========================  ==============
    pages of the segment   the tables: 1 each   nobody                     as before
    free pages below       nobody               the tables: 1 each         nobody
    =====================  ===================  =========================  ==============

    Returns:
        Whether the segment is empty now; when not, nothing has changed.
    """
    pool = kind.pool
    occupancy = pool.occupancy()
    last = int(np.flatnonzero(occupancy)[-1]) if occupancy.any() else 0
    if not last or occupancy[last] > kind.free_pages:
        return False
    low, high = last * pool.pages_per_segment, (last + 1) * pool.pages_per_segment
    moves: list[tuple[PageTable, int, int]] = []
    for table in tables:
        held = table.held()
        inside = np.flatnonzero((held >= low) & (held < high))
        moves += [(table, table.first_page + index, int(held[index])) for index in inside.tolist()]
    sources = np.array([source for _, _, source in moves], np.int32)
    if len(moves) != occupancy[last] or (pool.references(sources) != 1).any():
        return False  # somebody else uses some of them
    targets = pool.alloc(len(moves))
    if targets is None:
        return False
    if int(targets.max()) >= low:
        pool.free(targets)
        return False
    try:
        for rows in kind.page_rows:
            for (_, _, source), target in zip(moves, targets.tolist(), strict=True):
                rows[target].copy_(rows[source])
    except BaseException:
        pool.free(targets)
        raise
    for (table, number, _), target in zip(moves, targets, strict=True):
        pool.free(table.replace(number, np.array([target], np.int32)))
    return True
