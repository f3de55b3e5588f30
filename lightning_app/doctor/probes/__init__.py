"""How each layer is asked: one module for an operating system or library."""
