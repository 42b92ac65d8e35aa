"""What a client of OPT-1.3B has to hold in memory: federated averaging, LoRA, split federated learning, MU-SplitFed.

Counted by shape on the meta device (`ssl_split.models.memory`), so it takes seconds and next to no memory at any size. Method by method:

    FedAvg      the whole network and a classifier of two classes; first order
    FedLoRA     the same frozen, with trainable adapters of rank r on the query and value projections; first order
    SplitFed    embeddings and cut - 1 blocks; first order
    MU-SplitFed the same part, zeroth order: no gradients, nothing saved

    python benchmarks/client_memory.py
    python benchmarks/client_memory.py --cuts 2 9 --batch-size 32 --tokens 64 --optimiser adam --json memory.json
    python benchmarks/client_memory.py --hidden 512 --layers 6 --heads 8 --ffn 2048 --vocabulary 8000 --positions 512 --cuts 3 \\
        --precisions fp32 --device cpu                                          # small enough to measure as well

GiB are 2^30 bytes, GB 10^9. The largest live activations (of one forward pass without a graph) stand beside the sum, not in it. Sentences
fill `--tokens`; no dropout; attention with its scores written out. `--device cpu` also makes two training steps of every row, in a process
of its own with random weights, and prints by how much its peak memory grew: with what the count leaves out (gradients under way,
memory inside operations, the largest random direction of zeroth order, what libraries keep).

The published peaks (arXiv 2510.21155) are printed beside. Batch, length, precision, optimiser and cut behind them are not published; the
defaults here, 16 sentences of 128 tokens and SGD without momentum, come close to them in fp16 and GiB (docs/performance.md).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from ssl_split.models.memory import ClientMemory, client_memory
from ssl_split.models.opt import opt_units
from ssl_split.models.split import Half
from ssl_split.models.units import units_below

try:
    import transformers
except ImportError:
    raise SystemExit("error: OPT needs the package transformers: pip install 'ssl_split[text]'") from None

CLASSES = 2
PUBLISHED = {"FedAvg": 8.02, "FedLoRA": 5.64, "MU-SplitFed": 1.05}
"""Client peak memory in GB as printed; for MU-SplitFed without the cut."""
DTYPES = {"fp16": torch.float16, "fp32": torch.float32}
MOMENTS = {"sgd": 0, "momentum": 1, "adam": 2}
RADIUS = 1e-3
RETURN_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Let glibc give freed memory back at once: holes in its heap are not the client's."""


class Adapted(nn.Module):
    """LoRA (Hu et al., arXiv 2106.09685): x -> W x + 2 B A x, with W frozen, A `(r, in)` and B `(out, r)` trained."""

    def __init__(self, frozen: nn.Linear, rank: int) -> None:
        super().__init__()
        self.frozen = frozen.requires_grad_(False)
        self.down = nn.Linear(frozen.in_features, rank, bias=False)
        self.up = nn.Linear(rank, frozen.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, L, in)` -> `(B, L, out)`."""
        out: Tensor = self.frozen(x) + 2 * self.up(self.down(x))
        return out


def add_adapters(network: nn.Module, rank: int) -> None:
    """Freeze everything and put adapters on the query and value projections."""
    network.requires_grad_(False)
    for parent in list(network.modules()):
        for name in ("q_proj", "v_proj"):
            if isinstance(linear := getattr(parent, name, None), nn.Linear):
                setattr(parent, name, Adapted(linear, rank))


def part(method: str, cut: int | str, options: argparse.Namespace) -> Half:
    """What the client holds, on the meta device."""
    configuration = transformers.OPTConfig(
        vocab_size=options.vocabulary, hidden_size=options.hidden, num_hidden_layers=options.layers, num_attention_heads=options.heads,
        ffn_dim=options.ffn, max_position_embeddings=options.positions, dropout=0.0, attn_implementation="eager")
    with torch.device("meta"):
        units = opt_units(configuration)
        half = Half({str(i): unit.module for i, unit in enumerate(units[:units_below(units, cut)])},
                    head=nn.Linear(options.hidden, CLASSES) if cut == "full" else None)
        if method == "FedLoRA":
            add_adapters(half, options.lora_rank)
    return half


def count(method: str, cut: int | str, precision: str, options: argparse.Namespace) -> ClientMemory:
    """By shape."""
    ids = torch.empty(options.batch_size, options.tokens, dtype=torch.int64, device="meta")
    return client_memory(part(method, cut, options), ids, moments=MOMENTS[options.optimiser], dtype=DTYPES[precision],
                         zeroth_order=method == "MU-SplitFed")


def peak() -> int:
    """Highest resident memory of this process so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def child(options: argparse.Namespace) -> None:
    """Two steps of one row on the CPU; prints by how much they raised the peak."""
    torch.manual_seed(0)
    dtype, cut, method = DTYPES[options.precisions[0]], options.cuts[0], options.method
    warm = nn.Linear(8, 8).to(dtype)  # what the libraries need at first use is not the client's
    warm(torch.zeros(8, 8, dtype=dtype)).sum().backward()
    half = part(method, cut if cut == "full" else int(cut), options).to(dtype)
    ids = torch.randint(4, options.vocabulary, (options.batch_size, options.tokens))
    before = peak()
    half = half.to_empty(device="cpu")
    for parameter in half.parameters():
        nn.init.normal_(parameter, std=0.02)
    trained = [p for p in half.parameters() if p.requires_grad]
    made: dict[str, torch.optim.Optimizer] = {"sgd": torch.optim.SGD(trained, lr=1e-4), "adam": torch.optim.Adam(trained, lr=1e-4),
                                              "momentum": torch.optim.SGD(trained, lr=1e-4, momentum=0.9)}
    for _ in range(2):
        if method == "MU-SplitFed":
            zeroth_order_passes(half, ids)
            continue
        out = half(ids)
        out.backward(torch.randn_like(out))
        del out
        made[options.optimiser].step()
        made[options.optimiser].zero_grad()
    print(json.dumps(peak() - before))


@torch.no_grad()
def zeroth_order_passes(half: nn.Module, ids: Tensor) -> None:
    """Forward passes at x + r u and x - r u and back, in place: u is drawn again each time, one tensor after another."""
    for step, forward in ((RADIUS, True), (-2 * RADIUS, True), (RADIUS, False)):
        generator = torch.Generator().manual_seed(0)
        for parameter in half.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype), alpha=step)
        if forward:
            half(ids)


def measure(method: str, cut: int | str, precision: str, options: argparse.Namespace) -> int | None:
    """In a process of its own; None where it failed or ran out of memory."""
    sizes = ("hidden", "layers", "heads", "ffn", "vocabulary", "positions", "batch_size", "tokens", "lora_rank", "optimiser")
    words = [word for name in sizes for word in (f"--{name.replace('_', '-')}", str(getattr(options, name)))]
    done = subprocess.run([sys.executable, __file__, "--method", method, "--cuts", str(cut), "--precisions", precision, *words],
                          capture_output=True, text=True, env={**os.environ, **RETURN_MEMORY})
    if done.returncode:
        print(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"{method} was killed", file=sys.stderr)
        return None
    return int(json.loads(done.stdout.splitlines()[-1]))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"hidden": (2048, "width of the blocks"), "layers": (24, "blocks"), "heads": (32, "heads of attention"),
             "ffn": (8192, "width inside a block's two-layer part"), "vocabulary": (50272, "tokens known"),
             "positions": (2048, "longest sentence"), "batch-size": (16, "sentences of a step"), "tokens": (128, "tokens of a sentence"),
             "lora-rank": (8, "rank r of the adapters")}
    for name, (default, text) in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} ({default})")
    parser.add_argument("--cuts", nargs="+", default=["3", "5", "9", "13", "17"], metavar="CUT",
                        help="cuts of the split methods: 1 is the embeddings, each block one more (3 5 9 13 17: 2, 4, 8, 12, 16 blocks)")
    parser.add_argument("--precisions", nargs="+", choices=DTYPES, default=list(DTYPES), help="of weights and activations (both)")
    parser.add_argument("--optimiser", choices=MOMENTS, default="sgd", help="0, 1 or 2 running averages (sgd: 0)")
    parser.add_argument("--device", choices=("meta", "cpu"), default="meta", help="meta: count only; cpu: also measure (meta)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rows there, in bytes")
    parser.add_argument("--method", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Count everything and print a table for each precision."""
    options = parse()
    if options.method:
        child(options)
        return
    wrong = [cut for cut in options.cuts if not cut.isdigit() or not 1 <= int(cut) <= options.layers + 1]
    if wrong:
        raise SystemExit(f"error: --cuts {' '.join(wrong)}: a cut of {options.layers} blocks is a number from 1 to {options.layers + 1}")
    rows: list[tuple[str, int | str]] = [("FedAvg", "full"), ("FedLoRA", "full")]
    rows += [(method, int(cut)) for method in ("SplitFed", "MU-SplitFed") for cut in options.cuts]
    print(f"OPT with {options.layers} blocks of width {options.hidden}, vocabulary {options.vocabulary}; {options.batch_size} sentences of "
          f"{options.tokens} tokens; {options.optimiser}, LoRA rank {options.lora_rank}; torch {torch.__version__}, transformers "
          f"{transformers.__version__}")
    published = PUBLISHED if (options.hidden, options.layers, options.vocabulary) == (2048, 24, 50272) else {}
    found = []
    for precision in options.precisions:
        columns = [precision, "cut", "parameters, GiB", "gradients", "optimiser", "saved activations", "**sum, GiB**", "**sum, GB**",
                   "largest live, GiB", *["measured peak, GiB"] * (options.device == "cpu"), *["published, GB"] * bool(published)]
        print("\n| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
        for method, cut in rows:
            memory = count(method, cut, precision, options)
            row = {"method": method, "cut": cut, "precision": precision, **memory.to_dict(), "published_gb": published.get(method)}
            terms = [memory.parameters, memory.gradients, memory.optimiser_state, memory.saved_activations]
            cells = [method, str(cut), *(f"{v / 2**30:.2f}" for v in terms), f"**{memory.sum / 2**30:.2f}**", f"**{memory.sum / 1e9:.2f}**",
                     f"{memory.live_activations / 2**30:.3f}"]
            if options.device == "cpu":
                row["measured"] = measure(method, cut, precision, options)
                cells.append("failed" if row["measured"] is None else f"{row['measured'] / 2**30:.2f}")
            cells += [str(published.get(method, ""))] * bool(published)
            print("| " + " | ".join(cells) + " |", flush=True)
            found.append(row)
    if options.json:
        options.json.write_text(json.dumps({"options": {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()},
                                            "rows": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
