"""Export a group norm of any batch and image size as ONNX, and run it."""

import ndonnx
import numpy as np
import onnxruntime

import anynorm

x = ndonnx.argument(
    shape=("N", 6, "H", "W"), dtype=ndonnx.float32
)  # a name is a size that a run will tell
weight = ndonnx.asarray(
    np.linspace(0.5, 1.5, 6, dtype=np.float32)
)  # a constant of the graph
y = anynorm.group_norm(x, 3, weight)
model = ndonnx.build({"x": x}, {"y": y})
print(f"{len(model.graph.node)} nodes")

session = onnxruntime.InferenceSession(model.SerializeToString())
for shape in ((16, 6, 32, 32), (1, 6, 7, 9)):
    images = np.random.default_rng(0).normal(1e4, 1, shape).astype(np.float32)
    (result,) = session.run(None, {"x": images})
    exact = anynorm.group_norm(images.astype(np.float64), 3, weight.unwrap_numpy())
    print(shape, np.allclose(result, exact, rtol=0, atol=4e-6))
