"""One thread per process: the tensors of the tests are small, and worker processes share the cores."""

import os

import torch

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for commands that tests start
torch.set_num_threads(1)
