"""Random diffeomorphisms: stationary velocities made of smoothed noise, and their exponentials."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft

from autoreg.numerics.compose import compose

FloatArray = NDArray[np.float32]

TAPER_VOX = 28
LARGEST_VOX = 10.0
SQUARINGS = 7


@dataclass(frozen=True)
class Recipe:
    """Two components of a velocity: standard deviations of the Gaussians and rms, in voxels."""

    coarse_sigma: float
    coarse_rms: float
    fine_sigma: float
    fine_rms: float


RECIPES = {"smooth": Recipe(22, 2.6, 9, 1.0), "rough": Recipe(22, 2.4, 5, 0.8)}


def velocity(recipe: Recipe, inside: NDArray[np.bool_], rng: np.random.Generator) -> FloatArray:
    """A stationary velocity, (3, D, H, W) voxels.

    White noise smoothed by the two Gaussians, each component scaled to its rms `inside`, the
    normal component tapered to zero at the faces, the longest vector LARGEST_VOX.

    Args:
        recipe: Smoothness and amplitude.
        inside: (D, H, W), where the amplitudes hold.
        rng: Source of the noise.
    """
    field = np.zeros((3, *inside.shape), np.float32)
    for channel in range(3):
        for sigma, rms in (
            (recipe.coarse_sigma, recipe.coarse_rms),
            (recipe.fine_sigma, recipe.fine_rms),
        ):
            noise = smoothed_noise(inside.shape, sigma, rng)
            field[channel] += noise * (rms / np.sqrt(np.mean(noise[inside] ** 2)))
        field[channel] *= _taper(inside.shape, channel)
    length = np.sqrt((field**2).sum(0)).max()
    return np.asarray(field * (LARGEST_VOX / length), np.float32)


def smoothed_noise(
    shape: tuple[int, ...], sigma_vox: float, rng: np.random.Generator
) -> FloatArray:
    """White noise under a Gaussian, (D, H, W); periodic, not scaled."""
    spectrum = fft.rfftn(rng.standard_normal(shape, dtype=np.float32))
    for axis, n in enumerate(shape):
        steps = fft.rfftfreq(n) if axis == len(shape) - 1 else fft.fftfreq(n)
        gain = np.exp(-2 * (np.pi * sigma_vox * steps) ** 2).astype(np.float32)
        spectrum *= gain.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return np.asarray(fft.irfftn(spectrum, s=shape), np.float32)


def _taper(shape: tuple[int, ...], axis: int) -> FloatArray:
    """0 at both faces of an axis, 1 from TAPER_VOX voxels on, a raised cosine between."""
    n = shape[axis]
    depth = np.minimum(np.arange(n), np.arange(n)[::-1]) / min(TAPER_VOX, n / 2)
    ramp = (0.5 - 0.5 * np.cos(np.pi * np.minimum(depth, 1))).astype(np.float32)
    return ramp.reshape([-1 if a == axis else 1 for a in range(len(shape))])


def exponential(velocity_vox: FloatArray) -> FloatArray:
    """The displacement of the flow at time 1 by scaling and squaring, (3, D, H, W) voxels."""
    u = torch.from_numpy(velocity_vox)[None] / 2**SQUARINGS
    for _ in range(SQUARINGS):
        u = compose(u, u)
    return np.asarray(u[0].numpy(), np.float32)
