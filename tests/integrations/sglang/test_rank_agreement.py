"""What tensor-parallel ranks agree on, and when: several of them as threads of one process. No SGLang is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Barrier, Thread
from types import SimpleNamespace as Values
from typing import Any

import numpy as np
import pytest

from farspan.errors import UnsupportedError
from farspan.integrations.sglang.rank_agreement import (
    DelayedEvictor,
    RankAgreement,
    check_ranks,
    rank_agreement,
    table_agreement,
)
from farspan.kv.memory.cap import Cap
from farspan.kv.memory.drivers.host import HostDriver
from farspan.kv.memory.pages import PagePool
from farspan.kv.memory.segments import SegmentPool


class Meeting:
    """An exchange among threads, one a rank."""

    def __init__(self, ranks: int) -> None:
        self._barrier = Barrier(ranks, timeout=20)
        self._said: list[Sequence[int]] = [()] * ranks
        self.count = 0

    def of(self, rank: int) -> Callable[[Sequence[int]], list[int]]:
        def exchange(values: Sequence[int]) -> list[int]:
            self._said[rank] = values
            self._barrier.wait()
            found = [min(each) for each in zip(*self._said, strict=True)]
            self.count += rank == 0
            self._barrier.wait()
            return found

        return exchange


def run_ranks(*ranks: Callable[[], None]) -> None:
    errors: list[BaseException] = []

    def guarded(rank: Callable[[], None]) -> None:
        try:
            rank()
        except BaseException as error:  # noqa: BLE001 raised again below
            errors.append(error)

    threads = [Thread(target=guarded, args=(rank,)) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    if errors:
        raise errors[0]


def server_arguments(**options: Any) -> Values:
    plain = {
        "tp_size": 1,
        "pp_size": 1,
        "dp_size": 1,
        "enable_dp_attention": False,
        "attn_cp_size": 1,
        "elastic_ep_backend": None,
        "enable_pdmux": False,
        "sleep_on_idle": False,
    }
    return Values(**plain | options)


def test_one_process_and_independent_schedulers_have_nobody_to_agree_with() -> None:
    assert rank_agreement(server_arguments()) is None
    assert rank_agreement(server_arguments(dp_size=4)) is None
    assert table_agreement(server_arguments(dp_size=4)) is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pp_size": 2}, "--pp-size 2 and elastic KV pools: its stages"),
        ({"tp_size": 8, "enable_dp_attention": True}, "--enable-dp-attention and elastic KV pools"),
        ({"tp_size": 8, "attn_cp_size": 2}, "--attn-cp-size 2 and elastic KV pools"),
        ({"tp_size": 8, "elastic_ep_backend": "mooncake"}, "--elastic-ep-backend mooncake and"),
        ({"tp_size": 8, "enable_pdmux": True}, "--enable-pdmux and elastic KV pools"),
    ],
)
def test_what_does_not_run_in_step_is_refused_in_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UnsupportedError, match=said) as caught:
        check_ranks(server_arguments(**options))
    assert "FARSPAN_KV_POOLS=sglang" in str(caught.value.fix)
    assert table_agreement(server_arguments(**options)) is None, (
        "with SGLang's own pools it runs as without farspan"
    )


def test_ranks_with_different_clocks_look_at_the_same_iterations() -> None:
    meeting, looks = Meeting(2), ([], [])  # type: ignore[var-annotated]

    def rank(number: int) -> None:
        now = [0.0]
        ranks = RankAgreement(meeting.of(number), clock=lambda: now[0])
        for iteration in range(2000):
            busy = 500 <= iteration < 1500
            now[0] += (0.01 if busy else 0.0001) * (1 + number)
            if ranks.time_to_look(busy):
                looks[number].append(iteration)
                assert ranks.look(3 * number) == 3

    run_ranks(lambda: rank(0), lambda: rank(1))
    assert looks[0] == looks[1]
    assert 500 in looks[0], "a server that gets busy looks at once"
    assert 1500 in looks[0]
    busy = np.diff([one for one in looks[0] if 520 < one < 1500])
    assert set(busy) == {8}
    assert len([one for one in looks[0] if one < 500]) < 10, "an idle one doubles the time between two looks"


def test_a_request_that_was_refused_is_tried_again_at_the_next_look_or_beside_others() -> None:
    ranks = RankAgreement(list)
    ranks.note_refused("r1", 0, 5)
    assert ranks.was_refused("r1", 0, 5)
    assert not ranks.was_refused("r1", 0, 4), "one has ended"
    assert not ranks.was_refused("r2", 0, 5)
    ranks.look(0)
    assert not ranks.was_refused("r1", 0, 5)


def test_pools_grow_by_what_the_poorest_rank_has() -> None:
    meeting, found = Meeting(2), [{}, {}]  # type: ignore[var-annotated]

    def rank(number: int) -> None:
        driver = HostDriver()
        size = driver.granularity
        segments = SegmentPool(driver, size, Cap(fixed_bytes=(12, 5)[number] * size), reread_s=0.0)
        pages = PagePool(segments, [size // 4], 1, 64)
        pages.agree_with(RankAgreement(meeting.of(number)).least)
        state = found[number]
        state["first"] = pages.secure(8), pages.mapped_pages
        taken = pages.alloc(8)
        assert taken is not None
        state["more"] = pages.secure(24), pages.mapped_pages
        state["refused"] = pages.alloc(16), pages.mapped_pages
        pages.free(taken)
        pages.keep(0)
        segments.room()
        pages.tick()
        state["kept while nobody says so"] = pages.mapped_pages
        pages.release_empty()
        state["released"] = pages.mapped_pages
        pages.check_integrity()
        pages.close()
        segments.close()
        driver.close()

    run_ranks(lambda: rank(0), lambda: rank(1))
    assert found[0] == found[1]
    assert found[0] == {
        "first": (8, 8),
        "more": (12, 20),
        "refused": (None, 20),
        "kept while nobody says so": 20,
        "released": 4,
    }


def test_what_one_rank_must_let_go_of_goes_on_all() -> None:
    meeting = Meeting(2)
    gone: list[list[int]] = [[], []]

    def rank(number: int) -> None:
        evictor = DelayedEvictor(
            Values(evictable=lambda: 9, evict=lambda count: bool(gone[number].append(count)) or True)  # type: ignore[arg-type]
        )
        ranks = RankAgreement(meeting.of(number))
        assert evictor.evictable() == 9
        if number:
            assert not evictor.evict(4), "nothing goes before all ranks know"
        assert evictor.evict_agreed(ranks)
        assert not evictor.evict_agreed(ranks), "it was done"

    run_ranks(lambda: rank(0), lambda: rank(1))
    assert gone == [[4], [4]]
