"""What Python must find so that SGLang 0.5.23, unpacked alone, runs on the CPU in the engines' Python."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def site(folder: Path) -> Path:
    """Write what Python finds when it starts: the stand-ins, what an installed farspan has, and versions."""
    folder.mkdir()
    stubs = ROOT / "tests" / "engines" / "sglang"
    (folder / "sitecustomize.py").write_text(
        f"import sys\nsys.path.insert(0, {str(stubs)!r})\nfrom stubs import install\ninstall('sglang')\n"
    )
    entry = "[sglang.srt.plugins]\nfarspan = farspan.integrations.sglang.plugin:register\n"
    for name in ("farspan_plugin", "torchcodec", "torchvision", "torchaudio", "soundfile"):
        metadata = folder / f"{name}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        if name == "farspan_plugin":
            (metadata / "entry_points.txt").write_text(entry)
    return folder
