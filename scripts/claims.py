"""Rerun what RESULTS.md claims: ``python scripts/claims.py results|benchmarks [NAME]``.

Each script in scripts/results and scripts/benchmarks has ``run() -> list[dict]``, one dict a claim. It runs in a
process of its own: memory and threads of one do not weigh on the next. What is not rerun keeps its last figures.

A result has ``claim``, ``source``, ``bound``, ``measured``, ``spread`` and ``ok``; a benchmark has ``claim``,
``source`` (the peer), ``ours``, ``peer``, ``ratio``, ``spread``, ``bound`` and ``ok``.
``command`` and ``date`` are added here.
"""

from __future__ import annotations

import datetime
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = {
    "results": ("claim", "bound", "measured", "spread", "ok", "source", "command", "date"),
    "benchmarks": ("claim", "source", "ours", "peer", "ratio", "spread", "bound", "ok", "note", "command", "date"),
}
TARGETS = {"results": "results", "benchmarks": "bench"}
HEAD = """# Results

What lvmzoo claims, and what was measured. `make results` reruns the first table, `make bench` the second (`NAME=…` one
line of it). Written by scripts/claims.py from results.json and benchmarks.json.
"""


def scripts(kind: str) -> list[str]:
    """Return the names of the scripts of one kind."""
    return sorted(path.stem for path in (ROOT / "scripts" / kind).glob("[a-z]*.py"))


def run_script(kind: str, name: str) -> list[dict[str, Any]]:
    """Run one script in this process and return its claims, each with its command and the date."""
    path = ROOT / "scripts" / kind / f"{name}.py"
    sys.path.insert(0, str(path.parent))  # its helpers, whose names begin with an underscore
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look for the module of their class there
    spec.loader.exec_module(module)
    stamp = {"command": f"make {TARGETS[kind]} NAME={name}", "date": datetime.date.today().isoformat()}
    return [{**claim, **stamp} for claim in module.run()]


def merge(kind: str, name: str, claims: Sequence[Mapping[str, Any]]) -> None:
    """Put the claims of one script in place of its earlier ones, and write RESULTS.md."""
    path = ROOT / f"{kind}.json"
    command = f"make {TARGETS[kind]} NAME={name}"
    earlier = json.loads(path.read_text()) if path.exists() else []
    kept = [claim for claim in earlier if claim["command"] != command]
    merged = sorted([*kept, *claims], key=lambda claim: claim["command"])
    path.write_text(json.dumps(merged, indent=2, ensure_ascii=False) + "\n")
    (ROOT / "RESULTS.md").write_text(page())


def page() -> str:
    """Return RESULTS.md: a table of claims and a table of comparisons with peers."""
    parts = [HEAD]
    for kind, title in (("results", "Claims"), ("benchmarks", "Speed beside peers")):
        path = ROOT / f"{kind}.json"
        claims = json.loads(path.read_text()) if path.exists() else []
        if claims:
            columns = COLUMNS[kind]
            rows = [[_cell(claim.get(column)) for column in columns] for claim in claims]
            lines = [columns, ["---"] * len(columns), *rows]
            parts.append(f"## {title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n")
    return "\n".join(parts)


def main(arguments: Sequence[str]) -> int:
    """Run all scripts of a kind, or one; return 1 when a script fails or a bound is missed."""
    if not arguments or arguments[0] not in TARGETS:
        print(f"usage: claims.py {'|'.join(TARGETS)} [NAME]", file=sys.stderr)
        return 2
    kind, names = arguments[0], list(arguments[1:2])
    if unknown := [name for name in names if name not in scripts(kind)]:
        print(f"There is no script '{unknown[0]}'. Available: {', '.join(scripts(kind))}.", file=sys.stderr)
        return 2
    if "--here" in arguments:  # in the process of its own
        Path(arguments[3]).write_text(json.dumps(run_script(kind, names[0])))
        return 0
    failed = []
    for name in names or scripts(kind):
        print(f"{name} …", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            found = Path(folder) / "claims.json"
            done = subprocess.run([sys.executable, __file__, kind, name, "--here", str(found)], cwd=ROOT, check=False)
            if done.returncode != 0:
                failed.append(f"{name}: the script failed")
                continue
            claims = json.loads(found.read_text())
        merge(kind, name, claims)
        for claim in claims:
            measured = claim.get("measured", claim.get("ratio"))
            print(f"  {'ok    ' if claim['ok'] else 'MISSED'} {claim['claim']}: {measured} (bound: {claim['bound']})")
        failed += [f"{name}: {claim['claim']}" for claim in claims if not claim["ok"]]
    if failed:
        print("Failed:\n  " + "\n  ".join(failed), file=sys.stderr)
    return 1 if failed else 0


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " to ".join(_cell(item) for item in value)
    text = f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
