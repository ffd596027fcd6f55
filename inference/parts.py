"""One process for each GPU, each with its share of the pairs."""

import subprocess
import sys
from collections.abc import Sequence

from autoreg.errors import UsageError

_PROGRAM = "import sys; from autoreg.inference.cli import main_predict; sys.exit(main_predict())"


def parse_gpus(text: str) -> tuple[int, ...]:
    """The GPU numbers of "0,1"; a number given twice gets two processes.

    Raises:
        UsageError: if it is anything else.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() for part in parts):
        raise UsageError(f'--gpus {text}: expected numbers joined by commas, e.g. "0,1"')
    return tuple(int(part) for part in parts)


def part_commands(arguments: Sequence[str], gpus: Sequence[int]) -> list[list[str]]:
    """The command line of each part: the user's arguments, with the part and its device.

    Args:
        arguments: Those of autoreg_predict, with `--gpus`.
        gpus: One entry for each part.
    """
    rest = _without_option(arguments, "--gpus")
    return [
        [
            *(sys.executable, "-c", _PROGRAM, *rest),
            *("--num-parts", str(len(gpus)), "--part-id", str(part), "--device", f"cuda:{gpu}"),
        ]
        for part, gpu in enumerate(gpus)
    ]


def run_parts(commands: Sequence[Sequence[str]]) -> list[int]:
    """Run all commands at once and wait for all of them.

    Returns:
        Their exit statuses, in order; negative for a process killed by that signal.
    """
    processes: list[subprocess.Popen[bytes]] = []
    try:
        processes += [subprocess.Popen(command) for command in commands]
        return [process.wait() for process in processes]
    finally:
        # Reached early on Ctrl-C or when a process cannot start: leave none behind.
        for process in processes:
            if process.poll() is None:
                process.terminate()
        for process in processes:
            process.wait()


def _without_option(arguments: Sequence[str], option: str) -> list[str]:
    kept, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument == option:
            skip = True
        elif not argument.startswith(f"{option}="):
            kept.append(argument)
    return kept
