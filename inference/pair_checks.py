"""What is checked of two images before they are registered, and of the result afterwards."""

import numpy as np

from autoreg.errors import DataError
from autoreg.field_plan import FieldPlan, FieldSimilarity
from autoreg.geometry.foreground import bright_background
from autoreg.geometry.volume import Volume
from autoreg.registration.contrast import Agreement

# Along an axis that is not that of a single layer.
_FEWEST_VOXELS = 4
# By more the local correlation must fall to be told: on coarse copies, interpolation alone takes
# some thousandths from images that were aligned already.
_CLEARLY_WORSE = 0.01


def agreement_warnings(
    plan: FieldPlan,
    aligned: Agreement,
    registered: Agreement,
    remedy: str = "try --similarity mind or squared_lncc",
) -> tuple[str, ...]:
    """What the local correlation says against a result, in words.

    Its absolute value is compared unless images of one contrast are asked for, and only a clear
    loss is told: it is measured on coarse copies, and is not quite what was optimised.

    Args:
        plan: As it was obeyed.
        aligned: How the images agreed before the field was optimised.
        registered: And afterwards.
        remedy: Against correlating different contrasts.
    """
    found = []
    if plan.similarity == "lncc" and not aligned.one_contrast:
        found.append(
            f"the images look like different contrasts (local correlation "
            f"{aligned.correlation:.2f}, absolute {aligned.absolute:.2f}), for which lncc is not "
            f"made; {remedy}"
        )
    before, after = (agreement_of(a, plan.similarity) for a in (aligned, registered))
    if before is not None and (after is None or after < before - _CLEARLY_WORSE):
        measure = "local correlation" + (" (absolute)" if plan.similarity != "lncc" else "")
        end = "unknown" if after is None else f"{after:.3f}"
        found.append(
            f"the displacement did not bring the images closer: {measure} {before:.3f} at its "
            f"start, {end} at the end; look at the result"
        )
    return tuple(found)


def agreement_of(agreement: Agreement, similarity: FieldSimilarity) -> float | None:
    """The local correlation as far as a similarity cares for its sign; None if unknown."""
    if agreement.windows == 0:
        return None
    return agreement.correlation if similarity == "lncc" else agreement.absolute


def outside_value(channel: np.ndarray) -> float:
    """What lies beyond the moving image: its background where that is bright, else 0 or air."""
    bright = bright_background(channel)
    return min(0.0, float(channel.min())) if bright is None else bright


def require_pair(
    images: tuple[Volume, Volume],
    masks: tuple[Volume | None, Volume | None],
    names: tuple[str, str],
) -> None:
    """Refuse two images that cannot be registered, before anything is computed.

    Args:
        images: Fixed and moving.
        masks: Where they count.
        names: What messages call the images.

    Raises:
        DataError: if one is too thin, constant where it counts, or not finite; if a mask is empty
            or lies elsewhere; or if one image has a single layer and the other several.
    """
    for image, mask, name in zip(images, masks, names, strict=True):
        require_usable(image, name)
        if mask is not None:
            require_mask(mask, image, name)
    layers = [image.geometry.shape[0] == 1 for image in images]
    if layers[0] != layers[1]:
        raise DataError(
            f"{names[0]} and {names[1]}: one image has a single layer and the other has several: "
            f"fixed {images[0].geometry.shape}, moving {images[1].geometry.shape} (d, h, w); "
            "register 2-D with 2-D or 3-D with 3-D"
        )


def require_mask(mask: Volume, image: Volume, name: str) -> None:
    """Refuse a mask that does not lie on its image's grid, or in which nothing can be compared.

    Args:
        mask: The mask.
        image: Its image.
        name: What messages call the image.

    Raises:
        DataError: saying in what they differ, or how many voxels count.
    """
    difference = image.geometry.difference(mask.geometry)
    if difference is not None:
        raise DataError(
            f"the mask of {name}: lies elsewhere than its image: {difference} (expected as in the "
            "image, first; found in the mask, second); resample it to the image's grid"
        )
    inside = mask.array[0] != 0
    number = int(np.count_nonzero(inside))
    if not number:
        raise DataError(f"the mask of {name}: the mask is empty; draw it, or leave it out")
    if all(np.ptp(channel[inside]) == 0 for channel in image.array):
        raise DataError(
            f"the mask of {name}: the image is constant within its {number} voxels, so that "
            "nothing can be compared; draw it larger, or leave it out"
        )


def require_usable(image: Volume, name: str) -> None:
    """Refuse an image of which nothing can be registered.

    Args:
        image: The image.
        name: What messages call it.

    Raises:
        DataError: if it is too thin, constant or not finite.
    """
    shape = image.geometry.shape
    if min(n for n in (*shape, _FEWEST_VOXELS) if n > 1) < _FEWEST_VOXELS or max(shape) == 1:
        raise DataError(
            f"{name}: the image has {shape} voxels (d, h, w); expected at least {_FEWEST_VOXELS} "
            "voxels along every axis, or one along d alone"
        )
    if shape[1] == 1 or shape[2] == 1:
        raise DataError(
            f"{name}: the image has {shape} voxels (d, h, w), one layer along an axis other than "
            "d; permute its axes, so that the layer is the file's third axis"
        )
    if not np.isfinite(image.array).all():
        number = int(np.count_nonzero(~np.isfinite(image.array)))
        raise DataError(f"{name}: {number} voxels are NaN or infinite; repair the image")
    for channel in image.array:
        low, high = float(channel.min()), float(channel.max())
        if not low < high:
            raise DataError(f"{name}: the image is constant ({low:g}); nothing can be compared")
