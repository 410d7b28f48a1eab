"""What CONTRIBUTING.md says of every file, where the map shows it, and what ships."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from importlib import metadata, resources
from pathlib import Path

import pytest
import yaml

import safety_reminder

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "safety_reminder"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MAP = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def test_no_file_is_longer_than_400_lines():
    files = python_files("src", "tests", "benchmarks", "recipes", "examples")
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert len(lengths) > 100
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_no_function_is_longer_than_60_lines():
    lengths = {}
    for path in python_files("src", "benchmarks", "recipes"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                lengths[f"{path.relative_to(ROOT)}:{node.name}"] = node.end_lineno - node.lineno + 1
    assert len(lengths) > 500
    assert {name: length for name, length in lengths.items() if length > 60} == {}


def test_lint_limits_complexity():
    lint = PROJECT["tool"]["ruff"]["lint"]
    assert "C901" in lint["select"]
    assert lint["mccabe"]["max-complexity"] == 12
    assert "noqa: C901" not in "".join(path.read_text() for path in python_files("src", "benchmarks", "recipes"))


def tree_paths(text: str) -> list[str]:
    """Every path that a source tree names, relative to its root.

    A line is ``NAME[, NAME ...]  description``, two spaces deeper than its folder, or at column 25 the rest of a
    description. A folder ends with ``/``; a name may hold ``/`` and, where it is not of a module, ``*``.
    """
    paths: list[str] = []
    folders: list[str] = []
    for line in text.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        if not line.strip() or depth > 6:
            continue
        names = re.split(r" {2,}", line.strip())[0].rstrip(",").split(", ")
        del folders[depth:]
        for name in names:
            paths.append("".join(folders) + name)
        if names[0].endswith("/"):
            folders.append(names[0])
    return paths


def test_a_tree_is_read():
    lines = ["a/", "  x.py, y.py    what they do", "  b/            more", "    z.py,", "    w/*.yaml    files"]
    text = "\n".join([*lines, " " * 25 + "and so on", "c/  last"])
    assert tree_paths(text) == ["a/", "a/x.py", "a/y.py", "a/b/", "a/b/z.py", "a/b/w/*.yaml", "c/"]


def test_the_map_shows_every_module_and_nothing_else():
    [tree] = re.findall(r"^## Source tree\n\n```text\n(.*?)^```", MAP, flags=re.DOTALL | re.MULTILINE)
    shown = tree_paths(tree)
    assert len(set(shown)) == len(shown)
    missing = [path for path in shown if not list(ROOT.glob(path))]
    assert missing == []
    modules = {str(path.relative_to(ROOT)) for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"}
    folders = {f"{path.parent.relative_to(ROOT)}/" for path in PACKAGE.rglob("*.py")}
    named = {path for path in shown if path.startswith("src/safety_reminder/")}
    assert {path for path in named if path.endswith(".py") and Path(path).name != "__init__.py"} == modules
    assert folders <= named


def test_the_map_names_the_layers_as_lint_knows_them():
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    [layers] = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    order = " → ".join(layer.replace("safety_reminder.", "") for layer in layers)
    assert order in " ".join(MAP.split())


def test_the_package_says_that_it_is_typed():
    assert resources.files(safety_reminder).joinpath("py.typed").is_file()
    targets = PROJECT["tool"]["hatch"]["build"]["targets"]
    assert targets["wheel"]["packages"] == ["src/safety_reminder"]  # with all that is in it


def test_the_version_has_one_source():
    assert "version" not in PROJECT["project"]
    assert PROJECT["project"]["dynamic"] == ["version"]
    source = ROOT / PROJECT["tool"]["hatch"]["version"]["path"]
    assert f'__version__ = "{safety_reminder.__version__}"' in source.read_text(encoding="utf-8")
    assert metadata.version("safety-reminder") == safety_reminder.__version__
    assert f"## [{safety_reminder.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_no_extra_brings_what_nothing_uses():
    code = "\n".join(path.read_text(encoding="utf-8") for path in python_files("src"))
    for name, requirements in PROJECT["project"]["optional-dependencies"].items():
        packages = {re.split(r"[^\w-]", requirement)[0] for requirement in requirements}
        for package in packages if name != "dev" else ():
            assert {"scikit-learn": "sklearn"}.get(package, package.replace("-", "_")) in code, f"{name}: {package}"


def test_hooks_and_the_hosted_workflow_do_what_lint_and_ci_do():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    entries = [hook["entry"] for repo in hooks for hook in repo["hooks"]]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lint = makefile[makefile.index("lint: ") :].split("\n\n")[0]
    tools = re.findall(r"\$\(BIN\)/([\w-]+)", lint)
    assert [re.sub(r"^\.venv/bin/", "", entry).split()[0] for entry in entries] == [
        "ruff", "ruff", "lint-imports", "pyright",
    ] == tools[:4]  # fmt: skip
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    assert workflow["jobs"]["test"]["steps"][-1] == {"run": ".ci/run"}


def test_the_project_names_no_machine_and_no_registry():
    """Paths of somebody's machine, and addresses that packages are got from, belong in the environment."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    words = ("/root/", "/work/", "/home/", "/Users/", "index-url", "pypi.")
    machine = re.compile("|".join(map(re.escape, words)))
    kinds = (".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".json", ".jinja", "")
    paths = [ROOT / name for name in filter(None, tracked.stdout.split("\0"))]
    found = []
    for path in paths:
        if path != Path(__file__) and path.is_file() and path.suffix in kinds:
            found += [f"{path.name}: {match[0]}" for match in machine.finditer(path.read_text(encoding="utf-8"))]
    assert found == []
