"""What every command shares: folders, device, logging, and one line for an expected error."""

import argparse
import ctypes
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from autoreg import __version__
from autoreg.errors import AutoregError, UsageError
from autoreg.paths import ENVIRONMENT

if TYPE_CHECKING:
    import torch

EXIT_BAD_INPUT = 2
_M_MMAP_THRESHOLD = -3  # malloc.h
_MMAP_THRESHOLD_BYTES = 2**20
_M_TRIM_THRESHOLD = -1
_KEPT_BYTES = 2**30
_KEPT_ARRAY_BYTES = 2**25  # the most that glibc accepts


def make_parser(name: str, description: str) -> argparse.ArgumentParser:
    """A parser that knows `--version` and refuses abbreviated flags and empty paths."""
    parser = argparse.ArgumentParser(prog=name, description=description, allow_abbrev=False)
    refuse_empty_paths(parser)
    parser.add_argument("--version", action="version", version=f"autoreg {__version__}")
    return parser


def add_path_flags(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add `--raw`, `--preprocessed` and `--results`, as far as `names` lists them."""
    for name in names:
        parser.add_argument(
            f"--{name}",
            type=Path,
            metavar="FOLDER",
            help=f"folder of {name} data (default: ${ENVIRONMENT[name]}, else autoreg_data/{name})",
        )


def add_device_flag(parser: argparse.ArgumentParser) -> None:
    """Add `--device`."""
    parser.add_argument(
        "--device",
        default="auto",
        metavar="auto|cpu|cuda[:N]",
        help="where to compute; auto takes CUDA where it is available (default: auto)",
    )


def whole_number(lowest: int) -> Callable[[str], int]:
    """For `type=` of a flag: a whole number that is not below `lowest`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = lowest - 1
        if value < lowest:
            raise argparse.ArgumentTypeError(
                f"expected a whole number of {lowest} or more, found {text}"
            )
        return value

    return parse


def refuse_empty_paths(parser: argparse.ArgumentParser) -> None:
    """Let `type=Path` refuse an empty text; for a parser that `make_parser` did not make."""
    parser.register("type", Path, _path)


def _path(text: str) -> Path:
    """In place of `type=Path`, for which an empty text is the current folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError(
            "an empty path (an unset variable?); name the file or folder, the current one by ."
        )
    return Path(text)


def resolve_device(name: str) -> "torch.device":
    """The torch device that a `--device` value names.

    Raises:
        UsageError: if the name is unknown or the device is not there.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (":" in name and not number.isdecimal()):
        raise UsageError(f'--device {name}: unknown; use auto, cpu, cuda or cuda:N, e.g. "cuda:0"')
    if kind == "cuda":
        count = torch.cuda.device_count()
        if int(number or 0) >= count:
            raise UsageError(f"--device {name}: this machine has {count} CUDA devices; use cpu")
    return torch.device(kind, int(number)) if number else torch.device(kind)


def set_passive_threads() -> None:
    """Keep idle OpenMP threads from spinning; must run before torch is imported.

    Two spinning threads on a busy machine were measured 6 to 20 times slower than one.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")


def steady_heap() -> None:
    """Give every large array its own memory mapping, so that freeing it returns it at once.

    glibc raises its mapping threshold to 32 MiB as a program runs and then keeps freed arrays in
    a fragmented heap: peaks grew by 25 to 60 % and depended on chance. A fixed threshold alone
    costs 40 % of the time in page faults; with huge pages, which torch asks for when told to
    before it is imported, 6 to 9 % remain. Elsewhere than on glibc nothing happens.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    _set_heap({_M_MMAP_THRESHOLD: _MMAP_THRESHOLD_BYTES})


def roomy_heap() -> None:
    """Keep freed arrays for the next ones, for work on many arrays of a few megabytes.

    The opposite of `steady_heap`, for optimising displacement fields, whose slabs live shortly:
    there page faults took 5 to 14 of 25 to 45 CPU seconds of the system's time, and take 1 to 2 so,
    at a peak that is 100 to 160 MB higher (two scans of 7 million voxels).
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    _set_heap({_M_MMAP_THRESHOLD: _KEPT_ARRAY_BYTES, _M_TRIM_THRESHOLD: _KEPT_BYTES})


def _set_heap(options: dict[int, int]) -> None:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return
    for option, value in options.items():
        mallopt(option, value)


def run_command(
    body: Callable[[argparse.Namespace], int | None],
    arguments: argparse.Namespace,
    heap: Callable[[], None] = steady_heap,
) -> int:
    """Run a command's body; print an expected error in one message and give its exit status.

    Args:
        body: Takes the parsed arguments; may return an exit status.
        arguments: The parsed arguments.
        heap: How memory is to be managed.

    Returns:
        0 or what `body` returned; 2 after an `AutoregError`; 130 after Ctrl-C.
    """
    set_passive_threads()
    heap()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        return body(arguments) or 0
    except AutoregError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
