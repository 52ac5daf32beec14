"""Kernels that choose another path on a GPU, against their slow references, in small shapes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from benchmarks.gpu_report import Report
from benchmarks.random_wan import random_vae
from torch import Tensor

from rushes.models.wan_vae import WAN21_VAE, WAN22_VAE
from rushes.ops.attention import BACKENDS, attention
from rushes.ops.experts import experts_dense, experts_grouped, route
from rushes.ops.reference import attention_loop, experts_loop

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


def error(a: Tensor, b: Tensor) -> tuple[float, float]:
    """||a-b||2 / ||b||2 and max|a-b| / max|b|."""
    assert a.shape == b.shape, f"{tuple(a.shape)} against {tuple(b.shape)}"
    a, b = a.double(), b.double()
    apart = a - b
    return float(apart.norm() / b.norm()), float(apart.abs().max() / b.abs().max())


@torch.no_grad()
def measure(report: Report, device: torch.device) -> None:
    """Token experts, attention kernels and the VAE's stream, each on its own: one may fail."""
    for name, dtype in DTYPES.items():
        report.attempt(f"experts {name}", partial(add_experts, report, f"experts {name}", dtype, device))
        for backend in BACKENDS:
            label = f"attention {backend} {name}"
            report.attempt(label, partial(add_attention, report, label, backend, dtype, device))
        report.attempt(f"VAE {name}", partial(add_stream, report, f"VAE {name}", dtype, device))


def _normal(*shape: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator(device).manual_seed(len(shape) + sum(shape))
    return torch.empty(shape, device=device).normal_(generator=generator).to(dtype)


def add_experts(report: Report, label: str, dtype: torch.dtype, device: torch.device) -> None:
    """Both kernels against the loop in float32; 64 tokens, 2 of 8 experts."""
    x = _normal(64, 128, device=device, dtype=dtype)
    up = _normal(8, 96, 128, device=device, dtype=dtype) / 128**0.5
    down = _normal(8, 128, 96, device=device, dtype=dtype) / 96**0.5
    router = _normal(8, 128, device=device, dtype=torch.float32) / 128**0.5
    routing = route(x.float(), router, torch.zeros(8, device=device), 2)
    expected = experts_loop(x.float(), routing, up.float(), down.float())
    for name, kernel in (("dense", experts_dense), ("grouped", experts_grouped)):
        report.add(f"{label} {name}, relative", error(kernel(x, routing, up, down), expected)[0])


def add_attention(report: Report, label: str, backend: str, dtype: torch.dtype, device: torch.device) -> None:
    """One kernel against the loop in float32, values strided as those of a fused projection."""
    q, k = (_normal(1, tokens, 4, 64, device=device, dtype=dtype) for tokens in (80, 96))
    v = _normal(1, 96, 3 * 4 * 64, device=device, dtype=dtype).chunk(3, dim=-1)[2].unflatten(-1, (4, 64))
    expected = attention_loop(q.float(), k.float(), v.float())
    report.add(f"{label}, relative", error(attention(q, k, v, backend=backend), expected)[0])


def add_stream(report: Report, label: str, dtype: torch.dtype, device: torch.device) -> None:
    """Decoding latent by latent against one convolution over the clip, both VAEs in small; and how often a
    second stream gives other bits."""
    for name, published in (("2.1", WAN21_VAE), ("2.2", WAN22_VAE)):
        small = {"base_dim": 16, "decoder_base_dim": 16, "num_res_blocks": 1}
        vae = random_vae(replace(published, **small), 5, device, dtype)
        latents = _normal(1, published.z_dim, 3, 6, 8, device=device, dtype=torch.float32)
        whole, streamed = vae.decode_whole(latents).clamp(-1, 1), vae.decode(latents)
        report.add(f"{label} {name} stream against whole, relative", error(streamed, whole)[0])
        report.add(f"{label} {name} same bits twice", bool(torch.equal(streamed, vae.decode(latents))))
