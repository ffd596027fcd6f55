"""Every installed command answers --help without loading torch, and refuses unknown flags."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = dict(
    re.findall(r'"(autoreg_\w+)": "([\w.]+:\w+)"', (ROOT / "setup.py").read_text("utf-8"))
)


def test_there_are_commands():
    assert {"autoreg_plan_and_preprocess", "autoreg_train", "autoreg_predict"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_the_command_and_loads_nothing_heavy(command):
    module, function = COMMANDS[command].split(":")
    code = (
        f"import sys; from {module} import {function} as main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as stop:\n"
        "    heavy = {'torch', 'SimpleITK', 'scipy', 'matplotlib'} & set(sys.modules)\n"
        "    sys.exit(f'loaded {heavy}' if heavy else stop.code)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert f"usage: {command}" in run.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_unknown_flags_are_refused(command, capsys):
    module, function = COMMANDS[command].split(":")
    with pytest.raises(SystemExit) as stop:
        getattr(importlib.import_module(module), function)(["--no-such-flag"])
    assert stop.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_the_documentation_knows_the_command(command):
    pages = [ROOT / "README.md", *(ROOT / "documentation").glob("*.md")]
    assert any(command in page.read_text("utf-8") for page in pages)
