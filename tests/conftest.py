"""One thread per process: the tensors of the tests are small, and worker processes share the cores."""

import os
import signal
from collections.abc import Iterator

import pytest
import torch

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for commands that tests start
torch.set_num_threads(1)


@pytest.fixture
def hears_ctrl_c() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, also where the tests run in the background of a shell, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
