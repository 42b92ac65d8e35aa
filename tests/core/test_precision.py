"""Who asks for bf16 where it is emulated is told so; everybody else hears nothing."""

import platform

import pytest
import torch

from ssl_split import precision

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(("machine", "capability", "expected"), [
    ("x86_64", "AVX2", True), ("AMD64", "DEFAULT", True), ("x86_64", "AVX512", False),
    ("aarch64", "DEFAULT", False), ("arm64", "NEON", False)])
def test_processors(monkeypatch: pytest.MonkeyPatch, machine: str, capability: str, expected: bool) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert precision.emulated(CPU) is expected
    assert (precision.advice("bf16", CPU) is not None) is expected
    assert precision.advice("fp32", CPU) is None


def test_gpus_are_asked_for_real_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert precision.emulated(GPU)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert not precision.emulated(GPU)
