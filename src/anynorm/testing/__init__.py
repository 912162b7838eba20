"""Tests for norms of your own, on every installed array library: against float64 and against native norms.

>>> import numpy as np
>>> from anynorm import testing
>>> def textbook(x):
...     d = x - x.mean(axis=-1, keepdims=True)
...     return d / np.sqrt((d * d).mean(axis=-1, keepdims=True) + 1e-5)
>>> report = testing.check_norm(textbook, "last axis", libraries=["numpy"])
>>> [
...     finding.data
...     for finding in report.findings
...     if finding.use == "eager" and not finding.kept
... ]
['offset 100', 'offset 10000', 'offset 1e+06', 'ramp', 'small spread']
"""

from ._check import KINDS, Finding, Report, assert_norm, check_norm, data
from ._uses import USES, Use, usable

__all__ = ["KINDS", "USES", "Finding", "Report", "Use", "assert_norm", "check_norm", "data", "usable"]
