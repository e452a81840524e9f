"""The operators of Gaussian attention cost this: all matrix products, 2 per multiply-add, groups = batch * heads.

Scores count once for each call, though attention through landmarks makes them twice rather than keep them.
"""

from __future__ import annotations


def attention(groups: int, queries: int, keys: int, head_dim: int, value_dim: int) -> float:
    """x.k and s v."""
    return 2.0 * groups * queries * keys * (head_dim + value_dim)


def gradient(groups: int, queries: int, keys: int, head_dim: int, value_dim: int) -> float:
    """x.k, p.q and w k: the gradient by one of the two sides."""
    return 2.0 * groups * queries * keys * (2 * head_dim + value_dim)


def through_landmarks(groups: int, tokens: int, landmarks: int, head_dim: int, value_dim: int) -> float:
    """x.l, P v and P^T w; M g."""
    return 2.0 * groups * (tokens * landmarks * (head_dim + 2 * value_dim) + landmarks**2 * value_dim)


def through_landmarks_gradients(groups: int, tokens: int, landmarks: int, head_dim: int, value_dim: int) -> float:
    """x.l, P dy, dy.w, v.dg, P^T dg, and the weights times tokens and landmarks; M g, M^T dw and dw g^T."""
    return 2.0 * groups * (tokens * landmarks * (3 * head_dim + 4 * value_dim) + 3 * landmarks**2 * value_dim)
