"""The operators that take the most time, for any device and as Triton kernels for CUDA."""
