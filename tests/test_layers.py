"""Modules import from their own layer or those below, without cycles (DESIGN of the project: CONTRIBUTING.md)."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
LAYERS = [
    ("ssl_split.tree", "ssl_split.rng", "ssl_split.config", "ssl_split.names", "ssl_split.refusals", "ssl_split.sections",
     "ssl_split.defence_sections", "ssl_split.fields", "ssl_split.files", "ssl_split.locks", "ssl_split.display", "ssl_split.allocator",
     "ssl_split.precision"),
    ("ssl_split.models", "ssl_split.data", "ssl_split.objectives", "ssl_split.optim", "ssl_split.quality"),
    ("ssl_split.channel", "ssl_split.clock", "ssl_split.delivery", "ssl_split.clients", "ssl_split.defences", "ssl_split.traffic"),
    ("ssl_split.algorithms",),
    ("ssl_split.run", "ssl_split.resume", "ssl_split.dissimilarity", "ssl_split.events", "probes"),
    ("ssl_split.train", "ssl_split.training", "ssl_split.summary", "ssl_split.record"),
    ("attacks",),
    ("ssl_split.sweep", "ssl_split.report", "ssl_split.runs", "ssl_split.list_runs"),
]


def _layer(module: str) -> int | None:
    """Number of the layer, longest name first, so that ssl_split.training is not taken for ssl_split.train."""
    found = [(len(name), i) for i, names in enumerate(LAYERS) for name in names if module == name or module.startswith(name + ".")]
    return max(found)[1] if found else None


def _modules() -> dict[str, Path]:
    made = {}
    for package in ("ssl_split", "attacks", "probes"):
        for path in (ROOT / package).rglob("*.py"):
            made[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = path
    return made


def _imports(path: Path, modules: dict[str, Path]) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in modules else node.module for alias in node.names}
    return {n for n in names if n in modules and n != "ssl_split"}


def test_every_module_has_a_layer_and_imports_downwards() -> None:
    modules = _modules()
    assert len(modules) > 40
    wrong = []
    for name, path in modules.items():
        own = _layer(name)
        if own is None:
            assert name in ("ssl_split",), f"{name} is in no layer"
            continue
        wrong += [f"{name} imports {other}" for other in _imports(path, modules) if (_layer(other) or 0) > own]
    assert not wrong


def test_no_cycles() -> None:
    modules = _modules()
    graph = {name: _imports(path, modules) - {name} for name, path in modules.items()}
    done: set[str] = set()
    while graph:
        free = {name for name, needs in graph.items() if needs <= done}
        assert free, f"a cycle among {sorted(graph)}"
        done |= free
        for name in free:
            del graph[name]
