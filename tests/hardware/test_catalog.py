from __future__ import annotations

import re
from pathlib import Path

import pytest

from farspan.errors import InputError
from farspan.hardware.catalog import find_gpu, gpus
from farspan.hardware.gpu import Origin
from farspan.hardware.node_spelling import parse_node


def test_memory_is_what_torch_reports() -> None:
    # torch.cuda.get_device_properties(0).total_memory, read off the cards.
    assert find_gpu("H200").memory_bytes == 150_109_880_320
    assert find_gpu("H100").memory_bytes == 85_017_493_504
    assert find_gpu("h200").memory_origin is Origin.MEASURED
    # "GPU 0 has a total capacity of ... GiB", as torch printed on such cards.
    printed = {
        "B200": 178.35,
        "GB200": 184.31,
        "MI300X": 191.69,
        "L40S": 44.39,
        "H100-NVL": 93.00,
        "L4": 22.03,
    }
    for name, gib in printed.items():
        assert find_gpu(name).memory_bytes / 2**30 == pytest.approx(gib, abs=0.005)
        assert find_gpu(name).memory_origin is Origin.REPORTED


def test_every_name_finds_its_gpu() -> None:
    assert len({gpu.name for gpu in gpus()}) == len(gpus())
    for gpu in gpus():
        assert find_gpu(gpu.name) is gpu
        assert find_gpu(gpu.name.lower().replace("-", " ")) is gpu
        # A dense FP8 unit is at least as fast as bf16; no card moves fewer bytes than a disk.
        assert gpu.fp8_flops == 0 or gpu.fp8_flops >= gpu.bf16_flops
        assert gpu.bandwidth > 2e11


@pytest.mark.parametrize(
    ("text", "name", "count"),
    [
        ("8xH200", "H200", 8),
        ("H200", "H200", 1),
        ("4 x a100", "A100-80GB", 4),
        ("2xRTX PRO 6000", "RTX-PRO-6000", 2),
        ("8*H200", "H200", 8),
        ("h200x8", "H200", 8),
        ("H200:8", "H200", 8),
        ("8 h200", "H200", 8),
        ("H200 × 4", "H200", 4),
        ("RTX4090", "RTX-4090", 1),
        ("2x4090", "RTX-4090", 2),
        ("4090:2", "RTX-4090", 2),
        ("rtx 3090 ti", "RTX-3090-Ti", 1),
        ("NVIDIA L20", "L20", 1),
        ("mi355x", "MI355X", 1),
    ],
)
def test_parse_node(text: str, name: str, count: int) -> None:
    node = parse_node(text)
    assert (node.gpu.name, node.count) == (name, count)


@pytest.mark.parametrize("text", ["", "8x", "0xH200", "xH200", "-1xH200", "8 H200 GPUs!"])
def test_parse_node_refuses(text: str) -> None:
    with pytest.raises(InputError):
        parse_node(text)


@pytest.mark.parametrize(
    "name",
    """RTX-3090 RTX-4080-Super RTX-4090-D RTX-5070-Ti RTX-5080 RTX-PRO-4000 RTX-PRO-5000 A10 A10G A30 A40 A5000
    A800-80GB T4 V100-32GB L4 L20 L40 H20 H800 B300 GB10 GB300 MI250X MI300X MI325X MI350X MI355X""".split(),  # noqa: SIM905
)
def test_cards_people_serve_on_are_known(name: str) -> None:
    gpu = find_gpu(name)
    assert gpu.link in ("NVLink", "PCIe", "Infinity Fabric")
    assert gpu.memory_origin in (Origin.REPORTED, Origin.ASSUMED, Origin.MEASURED)
    assert gpu.link_bandwidth >= 3e10
    # What torch sees is less than the sticker, and no card here has less than 11 GiB.
    assert 11 < gpu.memory_bytes / 2**30 < 290


def test_a_gpu_the_catalog_lacks_is_planned_with_its_memory() -> None:
    node = parse_node("4xZ9000", 140.0)
    assert (node.count, node.gpu.memory_bytes) == (4, 140 * 2**30)
    assert node.gpu.name == "Z9000 (rates assumed as H200's)"
    assert node.gpu.memory_origin is Origin.GIVEN
    assert parse_node("H100", 75.5).gpu.bandwidth == find_gpu("H100").bandwidth
    with pytest.raises(InputError, match="not a memory size"):
        parse_node("H100", -1)
    with pytest.raises(InputError, match="--gpu-memory-gib"):
        parse_node("4xZ9000")


def test_an_unknown_gpu_names_a_close_one() -> None:
    with pytest.raises(InputError, match="did you mean H200"):
        parse_node("8xH2000")
    with pytest.raises(InputError, match=r"known are H200, .* and more: farspan gpus. Any other"):
        find_gpu("voodoo2")


@pytest.mark.parametrize("text", ["none", "CPU", "0"])
def test_a_machine_without_gpus_is_nothing_to_plan_for(text: str) -> None:
    with pytest.raises(
        InputError, match=r"has no GPU to plan for.*--gpus none for a CPU, with --runtime local"
    ):
        parse_node(text)


def test_the_pages_count_the_cards() -> None:
    root = Path(__file__).parents[2]
    page, changes = ((root / name).read_text() for name in ("docs/gpus.md", "CHANGELOG.md"))
    assert f"\n{len(gpus())}, under the names people use" in page
    assert re.findall(r"(\d+) GPUs instead of 18", changes) == [str(len(gpus()))]
