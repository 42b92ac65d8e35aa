"""Whether a processor computes in bf16 or only pretends to."""

from __future__ import annotations

import platform

import torch

X86 = ("x86_64", "amd64")


def emulated(device: torch.device) -> bool:
    """Whether bf16 arithmetic is emulated there: on GPUs before Ampere, and on x86 processors without AVX-512."""
    if device.type == "cuda":
        return not torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and platform.machine().lower() in X86 and "AVX512" not in torch.backends.cpu.get_cpu_capability()


def advice(precision: str, device: torch.device) -> str | None:
    """One sentence where the wanted precision costs time instead of saving it; measured on an AVX2 processor: convolutions 13 to 24 times
    slower than in fp32."""
    if precision != "bf16" or not emulated(device):
        return None
    return "bf16 is emulated by this processor and many times slower than fp32: use --precision fp32 here"
