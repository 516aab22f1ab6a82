"""What holds for all tests."""

import os

from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # runs in this process and in others are compared to the bit

settings.register_profile("ours", deadline=None)  # time is measured in benchmarks/, not in tests
settings.load_profile("ours")
