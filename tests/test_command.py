"""What every command shares."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from autoreg.command import (
    add_device_flag,
    add_path_flags,
    make_parser,
    resolve_device,
    run_command,
    whole_number,
)
from autoreg.errors import DataError, UsageError


def test_an_expected_error_is_one_message_and_status_2(capsys):
    def body(arguments):
        raise DataError(f"{arguments.file}: no such file")

    assert run_command(body, argparse.Namespace(file="a.nii.gz")) == 2
    assert capsys.readouterr().err == "error: a.nii.gz: no such file\n"


def test_a_defect_is_not_hidden():
    def body(arguments):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command(body, argparse.Namespace())


def test_status_of_success_of_the_body_and_of_an_interruption(capsys):
    def interrupted(arguments):
        raise KeyboardInterrupt

    assert run_command(lambda arguments: None, argparse.Namespace()) == 0
    assert run_command(lambda arguments: 3, argparse.Namespace()) == 3
    assert run_command(interrupted, argparse.Namespace()) == 130


def test_flags_are_not_abbreviated(capsys):
    parser = make_parser("autoreg_test", "A test.")
    add_path_flags(parser, "raw", "results")
    add_device_flag(parser)
    arguments = parser.parse_args(["--raw", "r"])
    assert (str(arguments.raw), arguments.results, arguments.device) == ("r", None, "auto")
    with pytest.raises(SystemExit):
        parser.parse_args(["--res", "r"])
    assert "unrecognized arguments: --res" in capsys.readouterr().err


def test_an_empty_path_is_not_the_current_folder(capsys):
    parser = make_parser("autoreg_test", "A test.")
    add_path_flags(parser, "raw")
    parser.add_argument("--files", type=Path, nargs="+")
    assert parser.parse_args(["--raw", ".", "--files", "a", "b"]).files == [Path("a"), Path("b")]
    for arguments in (["--raw", ""], ["--raw", " "], ["--files", "a", ""]):
        with pytest.raises(SystemExit) as stop:
            parser.parse_args(arguments)
        assert stop.value.code == 2
        assert f"argument {arguments[0]}: an empty path" in capsys.readouterr().err


def test_whole_numbers_say_what_is_expected(capsys):
    parser = make_parser("autoreg_test", "A test.")
    parser.add_argument("--steps", type=whole_number(1))
    assert parser.parse_args(["--steps", "12"]).steps == 12
    for text in ("0", "-3", "1.5", "many"):
        with pytest.raises(SystemExit):
            parser.parse_args(["--steps", text])
        message = f"argument --steps: expected a whole number of 1 or more, found {text}"
        assert message in capsys.readouterr().err


def test_devices(monkeypatch):
    assert resolve_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(UsageError, match="this machine has 0 CUDA devices"):
        resolve_device("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    assert resolve_device("cuda:01") == torch.device("cuda:1")
    for name in ("cuda:2", "gpu", "cpu:", "cuda:", "cuda:x"):
        with pytest.raises(UsageError, match=f"--device {name}"):
            resolve_device(name)


def test_the_module_imports_nothing_heavy():
    """Help must answer at once: torch and numpy come after parsing."""
    code = (
        "import sys, autoreg.command; "
        "print([m for m in ('torch', 'numpy', 'SimpleITK', 'scipy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="counts faults by /proc")
def test_a_roomy_heap_uses_freed_arrays_again():
    """What is freed is not given back to be asked for, and filled with zeros, again."""
    code = (
        "import resource, sys, numpy\n"
        "from autoreg import command\n"
        "getattr(command, sys.argv[1])()\n"
        "for _ in range(200): numpy.ones(3 * 2**16)\n"  # too small for huge pages
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)\n"
    )
    faults = {
        heap: int(subprocess.check_output([sys.executable, "-c", code, heap], text=True))
        for heap in ("roomy_heap", "steady_heap")
    }
    assert faults["steady_heap"] > faults["roomy_heap"] + 50_000
