"""What a GPU does with filterdb, measured in minutes: ``python -m tests.gpu``. Only ``test_gpu`` and ``test_triton`` are tests."""
