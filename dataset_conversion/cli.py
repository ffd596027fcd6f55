"""autoreg_convert_dataset; heavy packages come after parsing."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autoreg.command import (
    add_path_flags,
    make_parser,
    refuse_empty_paths,
    run_command,
    whole_number,
)
from autoreg.dataset_conversion.catalogue import CATALOGUE, Entry
from autoreg.paths import resolve_paths

if TYPE_CHECKING:
    from autoreg.dataset_conversion.conversion import Conversion
    from autoreg.dataset_conversion.writer import Written

LANDMARK_FRAMES = ("lps_mm", "ras_mm", "voxels")
PAIRINGS = ("inter_subject", "intra_subject", "atlas")


def main(argv: Sequence[str] | None = None) -> int:
    """Run autoreg_convert_dataset: a published data set becomes a raw data set."""
    parser = make_parser(
        "autoreg_convert_dataset",
        "Turn a published data set, or any heap of images, into a raw data set of autoreg. Files "
        "are linked where they can be used as they are; what is there and right is kept.",
    )
    converters = parser.add_subparsers(dest="dataset", required=True, metavar="DATASET")
    for name, entry in CATALOGUE.items():
        _add_dataset(converters.add_parser(
            name, help=entry.title, description=f"{entry.title}. Published at {entry.origin}.",
            allow_abbrev=False,
        ), name, entry)  # fmt: skip
    return run_command(_convert, parser.parse_args(argv))


def _add_dataset(parser: argparse.ArgumentParser, name: str, entry: Entry) -> None:
    refuse_empty_paths(parser)
    add = parser.add_argument
    add("source", type=Path, metavar="SRC", help="folder of the unpacked files")
    add_path_flags(parser, "raw")
    add("--id", type=whole_number(0), metavar="N",
        help="its number (default: the one that it has, else the lowest free one)")  # fmt: skip
    add("--name", metavar="NAME", help="its name (default: the published one)")
    add("--copy", action="store_true", help="copy files instead of linking them")
    add("--partial", action="store_true",
        help="go on although files are missing (default: tell which, and stop)")  # fmt: skip
    add("--workers", type=whole_number(1), metavar="N",
        help="processes that compute files (default: by processors and memory)")  # fmt: skip
    if entry.variants:
        lines = "; ".join(f"{key}: {text}" for key, text in entry.variants.items())
        add("--variant", choices=tuple(entry.variants), default="",
            help=f"{lines} (default: {next(iter(entry.variants))})")  # fmt: skip
    if name == "lumir":
        add("--labels", type=Path, metavar="FOLDER",
            help="label maps of the labelled training images (default: labelsTr or "
            "SanityCheckLabelsTr in SRC)")  # fmt: skip
    if name == "folder":
        _add_folder_flags(parser)


def _add_folder_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--modality", nargs="+", metavar="NAME", default=[],
        help="of each channel, as CT, or T1 T2 (default: image, or channel0 ...)")  # fmt: skip
    add("--pairing", choices=PAIRINGS, default=PAIRINGS[0],
        help="how pairs arise (default: inter_subject)")  # fmt: skip
    add("--atlas", metavar="CASE", default="", help="the atlas, with --pairing atlas")
    add("--landmark-frame", choices=LANDMARK_FRAMES,
        help="of csv files without a header (default: such files are refused)")  # fmt: skip


def _convert(arguments: argparse.Namespace) -> None:
    from autoreg.dataset_conversion.conversion import Options
    from autoreg.dataset_conversion.registry import plan
    from autoreg.dataset_conversion.writer import Target, write_conversion

    options = Options(
        variant=getattr(arguments, "variant", ""),
        labels=getattr(arguments, "labels", None),
        modality=tuple(getattr(arguments, "modality", ())),
        pairing=getattr(arguments, "pairing", "inter_subject"),
        atlas=getattr(arguments, "atlas", ""),
        landmark_frame=getattr(arguments, "landmark_frame", None),
    )
    target = Target(
        raw=resolve_paths(raw=arguments.raw).raw,
        number=arguments.id,
        name=arguments.name,
        copy=arguments.copy,
        partial=arguments.partial,
        workers=arguments.workers,
        progress=True,
    )
    conversion = plan(arguments.dataset, arguments.source, options)
    if _lies_in_place(conversion, target.raw):
        print(f"{conversion.in_place}: is read there as published; nothing to convert")
        return
    written = write_conversion(conversion, target)
    print(_summary(conversion, written, partial=arguments.partial))


def _lies_in_place(conversion: "Conversion", raw: Path) -> bool:
    place = conversion.in_place
    sound = not conversion.problems and not conversion.missing
    return sound and place is not None and place.absolute().parent.resolve() == raw.resolve()


def _summary(conversion: "Conversion", written: "Written", *, partial: bool) -> str:
    from autoreg.io.problems import report

    done = {
        "files kept": written.kept,
        "written": written.written,
        "removed": written.removed,
    }
    lines = [f"{written.folder}: " + ", ".join(f"{n} {what}" for what, n in done.items())]
    if conversion.in_place is not None:
        lines.append(f"{conversion.in_place} is read as published: its files were not converted")
    if written.changed:
        lines.append(f"kept although changed since they were written: {', '.join(written.changed)}")
    lines += conversion.notes
    if partial and conversion.missing:
        lines.append(report(f"left out of {conversion.source}", conversion.missing))
    lines.append(f"next: autoreg_plan_and_preprocess -d {written.folder.name}")
    return "\n".join(lines)
