"""Gaussian attention written like its formula: the oracle, from the distances themselves, with N x M memory."""

from __future__ import annotations

import torch
from torch import Tensor

from softbench.ops._common import widened


def kernel(x: Tensor, k: Tensor) -> Tensor:
    """`exp(-|x_i - k_j|^2 / 2)`; x [B, H, N, D], k [B, H, M, D] -> [B, H, N, M]."""
    distance = torch.cdist(widened(x), widened(k), compute_mode="donot_use_mm_for_euclid_dist")
    return (-distance.square() / 2).exp()


def attention(x: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`sum_j exp(-|x_i - k_j|^2 / 2) v_j`; v [B, H, M, E] -> [B, H, N, E]."""
    return (kernel(x, k) @ widened(v)).to(v.dtype)


def by_landmarks(x: Tensor, landmarks: Tensor, middle: Tensor, v: Tensor, scale: float) -> Tensor:
    """`S v` with `S = P^T M P` written out, [B, H, N, N]; landmarks [B, H, m, D], middle [B, H, m, m]."""
    p = kernel(landmarks, widened(x) * scale)  # [B, H, m, N]
    return ((p.mT @ middle @ p) @ widened(v)).to(v.dtype)
