"""What the benchmarks share: paired timing, the machine's description, and the JSON they write."""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from safety_reminder.run_files import provenance


def parser(description: str | None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--json", type=Path, help="write the figures here")
    made.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    made.add_argument("--device", default=None)
    return made


def machine() -> dict[str, Any]:
    facts: dict[str, Any] = {
        **provenance(),
        "cpu": _cpu(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def jpeg(image: Image.Image) -> Image.Image:
    """After a JPEG of quality 75."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=75)
    return Image.open(buffer).convert("RGB")


def timed(task: Callable[[], Any]) -> float:
    """Seconds ``task`` takes, the accelerator's queue included."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    task()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def reset_peak_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the highest resident size so far, anew from here


def peak_memory() -> float:
    """GB since :func:`reset_peak_memory`: on the accelerator, or resident in the process, its model included."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1e6


def paired(tasks: dict[str, Callable[[], Any]], runs: int) -> dict[str, list[float]]:
    """Run the tasks in turn, A B C A B C ..., after one warm-up of each, so that drift hits all alike."""
    for task in tasks.values():
        task()
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(runs):
        for name, task in tasks.items():
            seconds[name].append(timed(task))
    return seconds


def ratio(seconds: dict[str, list[float]], over: str, under: str) -> dict[str, Any]:
    """The median of ``over / under``, pair by pair."""
    runs = [a / b for a, b in zip(seconds[over], seconds[under], strict=True)]
    return figure(statistics.median(runs), runs)


def figure(value: float, runs: list[float] | None = None, **more: Any) -> dict[str, Any]:
    return {"value": value, "runs": runs if runs is not None else [value], **more}


def finish(figures: dict[str, dict[str, Any]], arguments: argparse.Namespace) -> None:
    """Print the figures; into ``--json`` also the options, of paths the last part alone, and the machine."""
    width = max(map(len, figures))
    for name, entry in figures.items():
        note = f"   {entry['note']}" if "note" in entry else ""
        runs = entry["runs"]
        spread = f"   [{min(runs):.4g}, {max(runs):.4g}] over {len(runs)} runs" if len(runs) > 1 else ""
        print(f"{name:<{width}}  {entry['value']:.4g}{spread}{note}")
    if arguments.json is not None:
        options = {name: _shown(value) for name, value in vars(arguments).items() if name != "json"}
        written = {"figures": figures, "options": options, "machine": machine()}
        arguments.json.write_text(json.dumps(written, indent=2) + "\n")


def _shown(value: Any) -> Any:
    return Path(value).name if isinstance(value, str | Path) else value
