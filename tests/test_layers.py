"""Who may import whom, read from the sources."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGES = ("bench", "methods", "evaluators", "leaderboards")
#: package -> packages it may import when it is loaded.
ALLOWED = {
    "bench": {"bench"},
    "methods": {"bench", "methods"},
    "evaluators": {"bench", "evaluators"},
    "leaderboards": {"bench", "leaderboards"},
}
#: Modules that a package may import out of others: arithmetic without torch.
SINGLE = {"leaderboards": {"evaluators.ranks", "evaluators.statistics"}}
#: What modules of `bench.data` import from the rest of `bench`.
DATA = {"bench.draws", "bench.errors", "bench.files", "bench.registry"}
#: Imports inside functions that cross the lines above: file -> package.
LAZY = {"bench/cli.py": {"leaderboards"}}
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(module, imported inside a function or for type checking only) of every import in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    late = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide who imports whom"
            yield node.module or "", id(node) in late


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_packages_keep_to_their_side(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    for module, late in imports(path):
        top = module.split(".")[0]
        package = path.relative_to(ROOT).parts[0]
        if top in PACKAGES and top not in ALLOWED[package] and module not in SINGLE.get(package, ()):
            assert late and top in LAZY.get(name, set()), f"{name} imports {module}"


def test_data_stands_on_few_modules_of_the_core() -> None:
    found = {module for path in SOURCES if path.is_relative_to(ROOT / "bench/data") for module, _ in imports(path)}
    assert {m for m in found if m.split(".")[0] == "bench" and m.split(".")[:2] != ["bench", "data"]} == DATA


def test_the_rule_finds_what_it_forbids(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text("import methods.ours\n\ndef f():\n    from evaluators import fidelity\n")
    assert list(imports(path)) == [("methods.ours", False), ("evaluators", True)]


def test_only_one_file_imports_mmengines_runner() -> None:
    found = {str(p.relative_to(ROOT)) for p in SOURCES for module, _ in imports(p) if module.startswith("mmengine.runner")}
    assert found == {"bench/runner.py"}


def test_pictures_leave_the_backend_of_a_notebook_alone() -> None:
    """pyplot chooses one for the whole process; `matplotlib.figure.Figure` needs none."""
    found = [p for p in SOURCES for module, _ in imports(p) if module.startswith("matplotlib.pyplot")]
    assert not found and not [p for p in SOURCES if "mpl.use(" in p.read_text(encoding="utf-8")]


def test_nothing_imports_tests_or_scripts() -> None:
    assert not [p for p in SOURCES for module, _ in imports(p) if module.split(".")[0] in ("tests", "scripts", "conftest")]


def test_tests_share_through_modules_of_tools() -> None:
    """What one test module needs of another belongs to neither."""
    found = [(p.name, module) for p in sorted((ROOT / "tests").glob("*.py")) for module, _ in imports(p)]
    assert found and not [(name, module) for name, module in found if module.startswith("test_")]


def test_leaderboards_and_the_command_line_load_without_torch() -> None:
    names = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in SOURCES if p.is_relative_to(ROOT / "leaderboards")]
    names = [name.removesuffix(".__init__") for name in names]
    assert {"leaderboards.render", "leaderboards.paper.notes", "leaderboards.figures"} <= set(names)
    code = "import sys, bench.cli, bench.config, bench.registry, bench.suites\n"
    code += "bench.suites.names(); bench.cli.build_parser(bench.cli._CALLS)\n"
    code += f"print('torch' in sys.modules)\nimport {', '.join(names)}, bench.tracking\n"
    code += "print('torch' in sys.modules, 'wandb' in sys.modules, 'matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"] * 4
