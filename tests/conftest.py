"""What holds for all tests."""

from hypothesis import settings

settings.register_profile("ours", deadline=None)  # time is measured in benchmarks/, not in tests
settings.load_profile("ours")
