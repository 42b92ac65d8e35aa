"""Run directories made by hand after the contract of `ssl_split.run`, with numbers that are known in closed form."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from safetensors.numpy import save_file

from ssl_split import config as configuration
from ssl_split.config import Config
from ssl_split.report.payload import unpacked

RAW, UNTRAINED = 0.36, 0.41
BLIND_MSE, UNTRAINED_MSE = 0.06, 0.035


def accuracy_of(algorithm: str, cut: int, seed: int) -> float:
    """Falls with the cut, faster for mocosfl; seeds are 0.01 apart."""
    return round(0.62 - (0.012 if algorithm == "mocosfl" else 0.004) * cut + 0.01 * seed, 6)


def mse_of(algorithm: str, cut: int, seed: int) -> float:
    """Grows with the cut and passes the blind guess at 17."""
    return round(0.004 + 0.0034 * cut + 0.0005 * seed + (0.001 if algorithm == "monacosfl" else 0.0), 6)


def change(run: Path, file: str, **values: Any) -> None:
    """Replace values of a JSON file of a run."""
    write_json(run / file, json.loads((run / file).read_text(encoding="utf-8")) | values)


def write_json(path: Path, values: Any) -> None:
    """A JSON file with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")


def picture() -> bytes:
    """Three rows of eight small images."""
    image = Image.new("RGB", (8 * 34, 3 * 34))
    image.putdata([((x * 7) % 256, (y * 5) % 256, (x * y) % 256) for y in range(3 * 34) for x in range(8 * 34)])
    buffer = io.BytesIO()
    image.save(buffer, format="png")
    return buffer.getvalue()


def make_run(out: Path, *, algorithm: str = "monacosfl", cut: int = 13, seed: int = 0, finished: bool = True, **fields: Any) -> Path:
    """A run without probes and attacks."""
    config: Config = configuration.from_dict({"algorithm": algorithm, "cut": cut, "seed": seed, "out": str(out), "rounds": 10, **fields})
    folder = config.run_dir
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config.to_dict()), encoding="utf-8")
    write_json(folder / "env.json", {"ssl_split": "0.1.0", "commit": "abc1234", "python": "3.11", "processor": "test machine",
                                     "packages": {"torch": "2.6"}})
    distance = 1e-6 * (1 if algorithm == "monacosfl" else 1 + cut)
    lines = [{"step": s, "round": s // 10, "loss": 6.0 / (1 + 0.02 * s) + 0.05 * cut, "online_to_mean": 2e-6, "momentum_to_mean": 1e-7,
              "online_to_momentum": distance * (1 + 0.02 * s)} for s in range(10, 101, 10)]
    lines += [{"step": s, "round": s // 10, "validation_knn": {"accuracy": 0.4 + 0.001 * s, "low": 0.3, "high": 0.6}} for s in (50, 100)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    if finished:
        write_json(folder / "result.json", result(config))
    return folder


def result(config: Config) -> dict[str, Any]:
    """The result of a finished run."""
    cut = int(config.cut)
    counted = 100.0 + cut * (20.0 if config.algorithm == "monacosfl" else 10.0)
    return {
        "kind": "run", "algorithm": config.algorithm, "cut": cut, "seed": config.seed, "dataset": config.dataset, "finished": True,
        "steps": 100, "rounds": 10, "loss": 2.0 + 0.05 * cut, "validation_knn": {"accuracy": 0.5, "low": 0.45, "high": 0.55},
        "collapse_std": 0.03, "bytes": {"up": {"act_up": 1048576, "key_act_up": 1048576}, "down": {"grad_down": 1048576}},
        "bytes_raw": {}, "mib_per_client": counted, "mib_per_client_closed_form": counted, "mib_per_client_published_formula": counted / 2,
        "smashed_shape": [64, 8, 8], "client_parameters": 1856 * cut, "server_parameters": 10_000_000,
        "client_macs_per_image": 1_000_000 * cut,
        "server_macs_per_image": 500_000_000, "seconds": 120.0, "images_per_second": 833.0, "results_version": 1,
        "divergence": {"online_to_mean": 2e-6, "momentum_to_mean": 1e-7,
                       "online_to_momentum": 3e-6 * (1 if config.algorithm == "monacosfl" else 1 + cut)},
        "command": f"python -m ssl_split.train --cut {cut}",
    }


def add_costs(run: Path, *, seconds: float, mib: float, waits: float | None = 0.25, reached: bool | None = None) -> None:
    """Virtual seconds and MiB of every round, in metrics and result; a target accuracy of 0.45 where it matters whether it was reached."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    for line in lines:
        if "validation_knn" in line:
            line |= {"virtual_seconds": seconds * (line["round"] + 1), "bytes": int(mib * 2**20) * (line["round"] + 1)}
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    hit = {"target": 0.45, "accuracy": 0.45, "rounds": 6, "steps": 50, "bytes": 6 * int(mib * 2**20), "virtual_seconds": 6 * seconds}
    values = json.loads((run / "result.json").read_text(encoding="utf-8"))
    write_json(run / "result.json", values | {
        "virtual_seconds": 11 * seconds, "waiting_share_fastest": waits, "waiting_share_mean": waits and waits / 2,
        "client_flops_mean": 2.5e9, "client_flops_most": 3e9, "server_flops": 4.2e12, "reached": hit if reached else None})
    if reached is not None:
        config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        (run / "config.yaml").write_text(yaml.safe_dump(config | {"target_accuracy": 0.45}), encoding="utf-8")


def rate(value: float, images: int = 10_000) -> dict[str, float]:
    """An accuracy with a symmetric interval of one per cent to either side."""
    return {"accuracy": value, "low": value - 0.01, "high": value + 0.01, "test_images": images}


LAST = {"file": "step-00000100.safetensors", "step": 100, "finished": True}
"""What a result says of the weights at the end of a run."""


def add_probe(run: Path, value: float, *, name: str = "linear", features: str = "backbone", checkpoint: Any = LAST,
              environment: Any = None, **options: Any) -> Path:
    """A probe result."""
    made = json.dumps([checkpoint, environment, options], sort_keys=True, default=str)
    folder = run / "probes" / f"{name}-{features}{hashlib.sha256(made.encode()).hexdigest()[:8]}"
    write_json(folder / "result.json", {
        "kind": "probe", "name": name, "features": features, **rate(value), "raw_pixels": rate(RAW), "untrained": rate(UNTRAINED),
        "options": {"features": features, "seed": 0, **options}, "checkpoint": checkpoint, "seconds": 3.0,
        "environment": environment or {}, "command": f"python -m probes.{name}"})
    return folder


def add_attack(run: Path, mse: float, *, name: str = "ridge", validation_mse: float | None = None, unaware: float | None = None,
               checkpoint: Any = LAST, **options: Any) -> Path:
    """An attack result with its picture; R2 follows from the MSE. `unaware`: the MSE of who does not know the defence."""
    made = json.dumps([checkpoint, options], sort_keys=True, default=str)
    folder = run / "attacks" / f"{name}-{hashlib.sha256(made.encode()).hexdigest()[:8]}"
    r2 = 1 - mse / BLIND_MSE
    write_json(folder / "result.json", {
        "kind": "attack", "name": name, "mse": mse, "psnr": 15.0, "psnr_of_mean_mse": 14.5, "ssim": 0.9 - 10 * mse, "r2": r2,
        "ssim_gain": 0.5,
        "blind_mse": BLIND_MSE, "blind_ssim": 0.15, "untrained_mse": UNTRAINED_MSE, "untrained_ssim": 0.5,
        "untrained_r2": 1 - UNTRAINED_MSE / BLIND_MSE, "intervals": {"mse": [mse - 0.001, mse + 0.001], "ssim": [0.1, 0.9],
                                                                       "r2": [r2 - 0.02, r2 + 0.02]},
        "validation_mse": mse if validation_mse is None else validation_mse, "verdict": "A sentence.", "targets": 128, "aux": 5000,
        **({} if unaware is None else {"unaware": {"mse": unaware, "psnr": 10.0, "ssim": 0.1, "r2": 1 - unaware / BLIND_MSE}}),
        "seeds": [0, 1, 2], "per_seed": [{"mse": mse}] * 3, "budget": "quick", "needs": ["smashed", "query", "aux_same"], "cut": 1,
        "smashed_shape": [64, 8, 8], "options": {"method": name, **options}, "checkpoint": checkpoint, "seconds": 5.0,
        "environment": {}, "command": f"python -m attacks.invert --method {name}"})
    (folder / "images.png").write_bytes(picture())
    save_file({"targets": targets(), "reconstructions": (targets() / 255 * 0.8).astype(np.float16),
               "blind": np.full((3, 8, 8), 0.5, np.float16)}, folder / "reconstructions.safetensors")
    return folder


def chromium() -> str | None:
    """A browser on this machine, or the one that the variable CHROMIUM names."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def data_of(page: str) -> Any:
    """What a page's scripts are given."""
    found = re.search(r'<script type="application/octet-stream" id="data">([^<]*)</script>', page)
    assert found
    return unpacked(found[1])


def still(page: str) -> str:
    """A page without its scripts."""
    return re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def targets() -> np.ndarray:
    """Ten images of one colour each [10, 3, 8, 8]."""
    colors = np.arange(30, dtype=np.uint8).reshape(10, 3) * 8
    return np.ascontiguousarray(np.broadcast_to(colors[:, :, None, None], (10, 3, 8, 8)))


def make_study(
    directory: Path, *, cuts: tuple[int, ...] = (1, 9, 17), seeds: int = 3, algorithms: tuple[str, ...] = ("mocosfl", "monacosfl")
) -> list[Path]:
    """A folder of runs with a probe and two attacks each; ridge is the strongest on validation images."""
    made = []
    for seed in range(seeds):
        for algorithm in algorithms:
            for cut in cuts:
                run = make_run(directory / "runs", algorithm=algorithm, cut=cut, seed=seed)
                add_probe(run, accuracy_of(algorithm, cut, seed))
                add_attack(run, mse_of(algorithm, cut, seed))
                add_attack(run, mse_of(algorithm, cut, seed) - 0.0001, name="decoder", validation_mse=1.0)
                add_attack(run, BLIND_MSE, name="blind", validation_mse=0.0)
                made.append(run)
    return made
