"""Files of torch and plain pickles, read without torch and without running any of their code."""
