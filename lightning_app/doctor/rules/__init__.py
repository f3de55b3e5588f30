"""The rules by theme: PyTorch's build, driver, GPUs, environment, surroundings, the leftover."""
