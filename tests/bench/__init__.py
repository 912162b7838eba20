"""The benchmark: how fast every norm is beside a copy, the native norm, the textbook and onnxruntime."""
