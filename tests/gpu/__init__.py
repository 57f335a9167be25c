"""What a GPU does with filterdb, measured in minutes: ``python -m tests.gpu``. Only ``test_*`` are tests."""
