"""The rooms import each other in one direction only, and commands stay quick to start."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# What each room may import, besides itself. `base` stands for the modules in autoreg/.
ALLOWED = {
    "base": {"base"},
    "numerics": {"base"},
    "geometry": {"base", "numerics"},
    "io": {"base", "numerics", "geometry"},
    "losses": {"base", "numerics", "geometry"},
    "networks": {"base", "numerics", "geometry"},
    "registration": {"base", "numerics", "geometry", "losses", "networks"},
    "evaluation": {"base", "numerics", "geometry", "losses", "io"},
    "planning": {
        "base", "numerics", "geometry", "losses", "networks", "io", "registration",
    },
    "training": {
        "base", "numerics", "geometry", "losses", "networks", "io", "registration", "planning",
        "evaluation",
    },
    "inference": {
        "base", "numerics", "geometry", "losses", "networks", "io", "registration", "planning",
        "evaluation", "training",
    },
    "dataset_conversion": {"base", "geometry", "io", "planning"},
}  # fmt: skip

ROOMS = ("autoreg", "inference", "dataset_conversion")
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
COMMAND_FILES = sorted(
    file
    for room in ("autoreg/*", "inference", "dataset_conversion")
    for file in ROOT.glob(f"{room}/cli*.py")
)


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    if parts[0] != "autoreg":
        return parts[0]
    return parts[1] if len(parts) > 2 else "base"


def imported_modules(path: Path) -> list[str]:
    modules = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.append(node.module)
            if node.module == "autoreg":
                modules += [f"autoreg.{alias.name}" for alias in node.names]
    return modules


def room_of_module(module: str) -> str | None:
    name = module.split(".")
    if name[0] != "autoreg" or len(name) == 1:
        return None
    return name[1] if name[1] in ALLOWED else "base"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
    room = room_of(path)
    for module in imported_modules(path):
        target = room_of_module(module)
        if target is not None and target != room:
            assert target in ALLOWED[room], f"{path}: {room} must not import {module}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_root_rooms_are_imported_under_their_installed_names(path):
    for module in imported_modules(path):
        assert module.split(".")[0] not in ("inference", "dataset_conversion"), module


def test_one_file_decides_align_corners():
    deciding = [
        str(path.relative_to(ROOT))
        for path in SOURCES
        if re.search(r"align_corners\s*=\s*(True|False|ALIGN)", path.read_text("utf-8"))
        and "grid_sample" in path.read_text("utf-8")
    ]
    assert deciding == ["autoreg/numerics/coordinates.py"]


@pytest.mark.parametrize("path", COMMAND_FILES)
def test_commands_import_nothing_heavy_before_parsing(path):
    tree = ast.parse(path.read_text("utf-8"))
    top = [
        alias.name if isinstance(node, ast.Import) else node.module
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    ]
    heavy = {"torch", "numpy", "SimpleITK", "nibabel", "scipy", "matplotlib", "batchgenerators"}
    assert not heavy & {str(name).split(".")[0] for name in top}


def test_a_root_room_refuses_a_second_name(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import inference"
    command = [sys.executable, "-P", "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert run.returncode != 0
    assert "autoreg.inference" in run.stderr
