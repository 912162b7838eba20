"""What the package does with nothing but its runtime dependencies installed: run by `nox -s bare`."""

import contextlib
import io
import sys

import anynorm
from anynorm import testing
from anynorm.__main__ import main

assert "numpy" not in sys.modules

refusal = ""
try:
    anynorm.layer_norm([1.0, 2.0])
except TypeError as error:
    refusal = str(error)
assert "needs x to be an array of NumPy, CuPy, JAX, PyTorch, Dask" in refusal, refusal

message = io.StringIO()
with contextlib.redirect_stderr(message):
    try:
        status = main(["check"])
    except SystemExit as leaving:
        status = leaving.code
assert status == 2, status
assert 'pip install "numpy>=2.0"' in message.getvalue(), message.getvalue()

refusal = ""
try:
    testing.check_norm(anynorm.layer_norm)
except ValueError as error:
    refusal = str(error)
assert "check_norm measures with NumPy, which is not installed" in refusal, refusal
print("anynorm imports without an array library, and says which it needs")
