"""The converters by name; `catalogue` says what they are."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from autoreg.dataset_conversion import folder, ixi, lpba40, lumir, lung250m_4b, nlst, oasis
from autoreg.dataset_conversion.catalogue import CATALOGUE
from autoreg.dataset_conversion.checks import require_source
from autoreg.dataset_conversion.conversion import Conversion, Options
from autoreg.errors import UsageError, did_you_mean

CONVERTERS: dict[str, Callable[[Path, Options], Conversion]] = {
    "lumir": lumir.plan_conversion,
    "oasis": oasis.plan_conversion,
    "nlst": nlst.plan_conversion,
    "lpba40": lpba40.plan_conversion,
    "lung250m_4b": lung250m_4b.plan_conversion,
    "ixi": ixi.plan_conversion,
    "folder": folder.plan_conversion,
}


def plan(dataset: str, source: Path, options: Options) -> Conversion:
    """Look at a published data set and say what would be written, and what is wrong.

    Args:
        dataset: A name in the catalogue.
        source: Folder of the unpacked files.
        options: What the user chose.

    Raises:
        UsageError: for an unknown data set or variant.
        DataError: if the source is no folder.
    """
    if dataset not in CONVERTERS:
        raise UsageError(f'"{dataset}": no such converter; {did_you_mean(dataset, CONVERTERS)}')
    variants = CATALOGUE[dataset].variants
    if options.variant and options.variant not in variants:
        raise UsageError(
            f"--variant {options.variant}: {dataset} has "
            f"{'the variants ' + ', '.join(variants) if variants else 'no variants'}"
        )
    require_source(source)
    conversion = CONVERTERS[dataset](source, options)
    if options.variant in ("", *list(variants)[:1]):
        return conversion
    # Variants of one name would replace each other.
    return replace(conversion, name=f"{conversion.name}_{options.variant}")
