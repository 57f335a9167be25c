"""What filterdb costs, measured: ``python -m tests.benchmarks``. Only ``test_merging`` is a test."""
