"""``make audit``: what the project may not contain, what ruff finds insecure, known holes in the packages of the lock.

Nothing may unpickle, evaluate text or load YAML as objects; ``torch.load`` stands in one place, with its safe reader.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOOKED_AT = ("lvmzoo", "scripts")
ALLOWED = {("lvmzoo/checkpoint.py", "torch.load")}
# Calls by their last names, since a module may be imported under another one.
REFUSED_MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
REFUSED_CALLS = {"eval", "exec", "compile", "__import__"}
REFUSED_METHODS = {
    ("yaml", "load"), ("yaml", "load_all"), ("yaml", "unsafe_load"), ("yaml", "full_load"), ("yaml", "full_load_all"),
    ("yaml", "unsafe_load_all"), ("torch", "load"), ("os", "system"), ("os", "popen"), ("hydra", "instantiate"),
    ("utils", "instantiate"), ("pandas", "read_pickle"), ("pd", "read_pickle"), ("jit", "load"), ("hub", "load"),
}  # fmt: skip


def main() -> int:
    """Run the three checks and return 1 if one of them found something, 2 if one could not be made."""
    found = [line for path in files() for line in insecure(path, path.read_text("utf-8"))]
    print("\n".join(found) if found else "No code unpickles, evaluates or instantiates.")
    return max(int(bool(found)), rules(), _packages())


def rules() -> int:
    """Return 1 if ruff finds something insecure; an assert is no guard here, and is left alone."""
    command = [sys.executable, "-m", "ruff", "check", "--select", "S", "--ignore", "S101", *LOOKED_AT]
    return int(subprocess.run(command, cwd=ROOT, check=False).returncode != 0)


def files() -> Iterator[Path]:
    """Yield the source files that are looked at."""
    for folder in LOOKED_AT:
        yield from sorted((ROOT / folder).rglob("*.py"))


def insecure(path: Path, text: str) -> Iterator[str]:
    """Yield a line for each place of a source text that could run what a file says."""
    name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    for node in ast.walk(ast.parse(text)):
        for what in _refused(node):
            if (name, what) not in ALLOWED:
                yield f"{name}:{node.lineno}: {what}"  # type: ignore[attr-defined] # all of these nodes have a line


def _refused(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name.partition(".")[0] in REFUSED_MODULES)
    elif isinstance(node, ast.ImportFrom):
        module = str(node.module).rpartition(".")[2]
        if str(node.module).partition(".")[0] in REFUSED_MODULES:
            yield str(node.module)
        yield from (f"{module}.{alias.name}" for alias in node.names if (module, alias.name) in REFUSED_METHODS)
    elif isinstance(node, ast.Call):
        called = node.func
        if isinstance(called, ast.Name) and called.id in REFUSED_CALLS:
            yield called.id
        if isinstance(called, ast.Attribute):
            owner = called.value.attr if isinstance(called.value, ast.Attribute) else getattr(called.value, "id", "")
            if (owner, called.attr) in REFUSED_METHODS:
                yield f"{owner}.{called.attr}"
            if (owner, called.attr) == ("torch", "load") and not _safe(node):
                yield "torch.load without weights_only=True"
        for keyword in node.keywords:
            value = getattr(keyword.value, "value", None)
            if (keyword.arg == "allow_pickle" and value is not False) or (
                keyword.arg in ("weights_only", "shell") and value is (keyword.arg == "shell")
            ):
                yield f"{keyword.arg}={value}"


def _safe(call: ast.Call) -> bool:
    return any(word.arg == "weights_only" and getattr(word.value, "value", None) is True for word in call.keywords)


def _packages() -> int:
    """Ask pip-audit about the packages of the lock; 2 where it could not look at any."""
    command = [
        sys.executable,
        "-m",
        "pip_audit",
        "--progress-spinner",
        "off",
        "--disable-pip",
        "--no-deps",
        "-f",
        "json",
    ]
    done = subprocess.run([*command, "-r", "constraints.txt"], cwd=ROOT, check=False, capture_output=True, text=True)
    if "No module named pip_audit" in done.stderr:
        print("Packages: not looked at, because pip-audit is not installed. Run: make setup")
        return 2
    try:
        looked_at = [package for package in json.loads(done.stdout)["dependencies"] if "vulns" in package]
    except ValueError:
        looked_at = []
        print(done.stderr.strip()[-500:])
    if not looked_at:
        print("Packages: not looked at. The list of known holes is on pypi.org, which cannot be reached from here.")
        return 2
    bad = [package for package in looked_at if package["vulns"]]
    for package in bad:
        for hole in package["vulns"]:
            fixed = ", ".join(hole["fix_versions"]) or "nothing yet"
            print(f"{package['name']} {package['version']}: {hole['id']}, fixed in {fixed}")
    print(f"Packages: {len(looked_at)} looked at, {len(bad)} with known holes.")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
