"""Gradients of similarity and regularity, joined so that neither undoes the other."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Rule = Literal["random_one", "both"]


@dataclass(frozen=True, eq=False)
class Projection:
    """What became of two gradients.

    Attributes:
        gradient: Their sum after projection, one tensor per parameter.
        cosine: Of the angle between the two over the whole parameter vector, before projection; 0
            where one of them vanishes.
        conflict: Whether they pointed away from each other, so that something was projected.
    """

    gradient: list[Tensor]
    cosine: float
    conflict: bool


def project(
    g_similarity: Sequence[Tensor],
    g_regularity: Sequence[Tensor],
    rule: Rule,
    generator: torch.Generator,
) -> Projection:
    """Join two gradients; where they conflict, drop what one says against the other.

    g . h < 0 is a conflict, over the whole parameter vector. Then g becomes
    g - (g . h / |h|^2) h, which is orthogonal to h. As the result is a combination of the two, it
    is built tensor by tensor without ever joining them into one vector.

    Args:
        g_similarity: Gradient of the similarity, one tensor per parameter. Its memory is used for
            the result.
        g_regularity: Gradient of lambda * regularity, likewise; left as it is.
        rule: On conflict, "random_one": a fair coin picks the gradient that is projected;
            "both": each is projected onto the normal plane of the (original) other.
        generator: Throws the coin, and only on conflict; on the CPU.

    Returns:
        The joint gradient, and how the two stood to each other.

    References:
        Yu et al., Gradient surgery for multi-task learning, NeurIPS 2020 ("both").
    """
    square_s, square_r, dot = _dot_products(g_similarity, g_regularity)
    conflict = dot < 0
    factor_s, factor_r = 1.0, 1.0
    if conflict:  # so neither norm is zero
        similarity_is_projected = regularity_is_projected = rule == "both"
        if rule == "random_one":
            coin = int(torch.randint(2, (1,), generator=generator))
            similarity_is_projected, regularity_is_projected = coin == 0, coin == 1
        if similarity_is_projected:
            factor_r -= dot / square_r
        if regularity_is_projected:
            factor_s -= dot / square_s
    norms = math.sqrt(square_s) * math.sqrt(square_r)
    return Projection(
        _combine_into_first(g_similarity, factor_s, g_regularity, factor_r),
        dot / norms if norms > 0 else 0.0,
        conflict,
    )


def _dot_products(a: Sequence[Tensor], b: Sequence[Tensor]) -> tuple[float, float, float]:
    """a.a, b.b and a.b in float64, with one transfer from the device."""
    sums = torch.zeros(3, dtype=torch.float64, device=a[0].device)
    for x, y in zip(a, b, strict=True):
        p, q = x.detach().double().flatten(), y.detach().double().flatten()
        sums += torch.stack([p.dot(p), q.dot(q), p.dot(q)])
    square_a, square_b, dot = sums.tolist()
    return square_a, square_b, dot


def _combine_into_first(
    a: Sequence[Tensor], factor_a: float, b: Sequence[Tensor], factor_b: float
) -> list[Tensor]:
    return [
        x.mul_(factor_a).add_(y, alpha=factor_b) if factor_a != 1.0 else x.add_(y, alpha=factor_b)
        for x, y in zip(a, b, strict=True)
    ]
