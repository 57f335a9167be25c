"""What filterdb costs, measured: ``python -m tests.benchmarks``. Nothing here is a test, and nothing is asserted."""
