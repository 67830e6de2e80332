"""Keys and values come back as they went in: exactly in the model's dtype, within E4M3's rounding in FP8."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.errors import InputError
from farspan.kv.formats import KVFormat

SLOTS = 300


def new_rows(form: KVFormat) -> torch.Tensor:
    return torch.zeros((SLOTS, form.row_bytes), dtype=torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("heads", "dim"), [(1, 8), (3, 64)])
def test_plain_entries_are_exact_and_views(dtype: torch.dtype, heads: int, dim: int) -> None:
    form = KVFormat(heads, dim, dtype)
    assert form.row_bytes == 2 * heads * dim * dtype.itemsize
    rows = new_rows(form)
    store = form.store(rows)
    key, value = torch.randn(2, 100, heads, dim).to(dtype).unbind(0)
    store.write(50, key, value)
    (run,) = store.read(50, 100)
    assert torch.equal(run.key, key)
    assert torch.equal(run.value, value)
    assert run.key.untyped_storage().data_ptr() == rows.untyped_storage().data_ptr()
    scattered = torch.tensor([149, 50, 77])
    (run,) = store.gather(scattered)
    assert torch.equal(run.key, key[scattered - 50])
    assert torch.equal(run.value, value[scattered - 50])
    (run,) = store.join([(140, 10), (50, 3)])
    assert torch.equal(run.key, torch.cat((key[90:100], key[:3])))
    assert torch.equal(run.value, torch.cat((value[90:100], value[:3])))
    assert not rows[:50].any()
    assert not rows[150:].any()


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31), exponent=st.integers(-30, 30))
def test_fp8_rounds_by_at_most_a_sixteenth_at_any_magnitude(seed: int, exponent: int) -> None:
    form = KVFormat(2, 16, torch.float32, fp8=True)
    assert form.row_bytes == 2 * 2 * 16 + 2 * 2 * 4
    store = form.store(new_rows(form))
    generator = torch.Generator().manual_seed(seed)
    key, value = (torch.randn(2, 60, 2, 16, generator=generator) * 2.0**exponent).unbind(0)
    store.write(7, key, value)
    (run,) = store.read(7, 60)
    for exact, kept in ((key, run.key), (value, run.value)):
        largest = exact.abs().amax(-1, keepdim=True)
        # 3 bits of mantissa: half a unit in the last place is 1/16 of the value; below 2^-6 x 448 it is fixed.
        bound = torch.maximum(exact.abs() / 16, largest * 2.0**-10 / 448 * 1.01)
        assert ((kept - exact).abs() <= bound * 1.0001).all()
    (gathered,) = store.gather(torch.tensor([8, 7]))
    assert torch.equal(gathered.key, run.key[[1, 0]])
    (joined,) = store.join([(37, 30), (7, 30)])
    assert torch.equal(joined.key, torch.cat((run.key[30:], run.key[:30])))
    assert torch.equal(joined.value, torch.cat((run.value[30:], run.value[:30])))


def test_fp8_keeps_zeros_and_its_own_maximum() -> None:
    form = KVFormat(1, 4, torch.float32, fp8=True)
    store = form.store(new_rows(form))
    zeros, large = torch.zeros(1, 1, 4), torch.tensor([[[3e38, -3e38, 0.0, 1.0]]])
    store.write(0, zeros, large)
    (run,) = store.read(0, 1)
    assert torch.equal(run.key, zeros)
    assert torch.allclose(run.value, torch.tensor([[[3e38, -3e38, 0.0, 0.0]]]), rtol=1e-6)


def test_fp8_needs_an_even_head_dim() -> None:
    with pytest.raises(InputError, match="even head_dim"):
        KVFormat(1, 5, torch.float32, fp8=True)


def test_long_fp8_runs_come_in_pieces_that_join_to_the_whole() -> None:
    form = KVFormat(1, 2, torch.float32, fp8=True)
    count = 150_000
    store = form.store(torch.zeros((count, form.row_bytes), dtype=torch.uint8))
    key = torch.arange(count, dtype=torch.float32)[:, None, None].expand(count, 1, 2) % 448
    store.write(0, key, -key)
    pieces = list(store.read(0, count))
    assert len(pieces) > 1
    # one magnitude a head and position: its own scale makes it exact up to rounding of the scale
    assert torch.allclose(torch.cat([run.key for run in pieces]), key, rtol=1e-6)
    assert torch.allclose(torch.cat([run.value for run in pieces]), -key, rtol=1e-6)
