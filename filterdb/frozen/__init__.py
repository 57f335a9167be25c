"""Networks whose depthwise kernels are frozen templates of a bank."""
