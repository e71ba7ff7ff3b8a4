"""Two test processes, each on one thread: pytest's options are in pyproject.toml."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, here and in processes that tests start
