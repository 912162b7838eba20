"""The scaler of ``sklearn.preprocessing``, with exact streaming, for arrays of any library that scikit-learn takes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from .._core.arrays import default_dtype
from .._core.libraries import library_name
from .._moments import Moments, merge, moments, variance
from .._norms import batch_norm
from .._running import PopulationStats
from . import _preset as preset

if TYPE_CHECKING:
    from .._core.libraries import Array


class StandardScaler(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    r"""``sklearn.preprocessing.StandardScaler``, built on merged moments: partial_fit loses no digits to an offset.

    .. math:: z = \frac{x - \mu}{\sigma}

    Parameters
    ----------
    with_mean, with_std : bool
        Whether to subtract the mean, and to divide by the deviation.

    Attributes
    ----------
    moments_ : Moments
        Of shape (n_features,): the moments of all data seen.
    mean_, var_, scale_ : array
        Of shape (n_features,). A feature that is constant has a scale of 1.
    n_samples_seen_ : array
        How many numbers of each feature were seen. NaN does not count, and stays NaN.

    See Also
    --------
    sklearn.preprocessing.StandardScaler : takes sparse matrices and sample weights, too.

    Examples
    --------
    >>> import numpy as np
    >>> from anynorm import presets
    >>> x = np.asarray([[1e6], [1e6 + 1], [1e6 + 2]], dtype=np.float32)
    >>> scaler = presets.sklearn.StandardScaler()
    >>> for part in np.split(x, 3):
    ...     scaler = scaler.partial_fit(part)
    >>> scaler.transform(x).ravel().round(3)
    array([-1.225,  0.   ,  1.225], dtype=float32)
    """

    moments_: Moments

    def __init__(self, *, with_mean: bool = True, with_std: bool = True) -> None:
        self.with_mean = with_mean
        self.with_std = with_std

    def fit(self, X: Array, y: None = None) -> StandardScaler:
        """Take the moments of X, of shape (n_samples, n_features), in place of any from before."""
        return self._merged(self._checked(X, "fit", reset=True), again=False)

    def partial_fit(self, X: Array, y: None = None) -> StandardScaler:
        """Merge the moments of X into those from before."""
        again = hasattr(self, "moments_")
        return self._merged(self._checked(X, "partial_fit", reset=not again), again=again)

    def _merged(self, x: Array, *, again: bool) -> StandardScaler:
        """Take in the moments of x, after those from before or in their place."""
        m = moments(x, axis=0, where=x == x)  # noqa: PLR0124  what is not itself is NaN
        self.moments_ = merge(*_alike(self.moments_, m)) if again else m
        count, mean, _, _ = self.moments_
        xp = preset.library(mean)
        self.mean_, self.n_samples_seen_ = xp.where(count > 0, mean, math.nan), count  # of NaN alone no mean is known
        self.var_ = variance(self.moments_)
        self.scale_ = xp.where(self.var_ == 0, 1.0, xp.sqrt(self.var_))
        return self

    def transform(self, X: Array) -> Array:
        """Return X, of shape (n_samples, n_features), standardised."""
        check_is_fitted(self)
        x, mean, rest = self._checked(X, "transform"), self.mean_, self.moments_.rest
        xp = preset.library(mean)
        var = xp.where(self.var_ == 0, 1.0, self.var_) if self.with_std else xp.ones_like(self.var_)
        if not self.with_mean:
            mean = rest = xp.zeros_like(mean)
        return batch_norm(x, stats=PopulationStats(mean, var, 1, rest), channel_axis=1, eps=0)

    def inverse_transform(self, X: Array) -> Array:
        """Undo transform."""
        check_is_fitted(self)
        x = self._checked(X, "inverse_transform")
        if self.with_std:
            x = x * preset.library(x).astype(self.scale_, x.dtype)
        if self.with_mean:
            mean, rest = (preset.library(x).astype(a, x.dtype) for a in (self.mean_, self.moments_.rest))
            x = (x + rest) + mean
        return x

    def _checked(self, x: Array, caller: str, *, reset: bool = False) -> Array:
        """Return x as an array of real floating numbers, of the features that are known."""
        x = validate_data(self, x, reset=reset, ensure_all_finite="allow-nan")
        xp = preset.library(x)
        if not reset and xp is not preset.library(self.mean_):
            message = (
                f"StandardScaler.{caller}() and fit() must use the same namespace: got {library_name(xp)} after "
                f"{library_name(preset.library(self.mean_))}; convert X"
            )
            raise ValueError(message)
        return x if xp.isdtype(x.dtype, "real floating") else xp.astype(x, default_dtype(xp, x, "real floating"))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.array_api_support = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _alike(*many: Moments) -> list[Moments]:
    """Return moments of one library in the widest dtype of theirs."""
    xp = preset.library(many[0].mean)
    if any(preset.library(m.mean) is not xp for m in many):
        return [*many]  # which merge refuses
    widest = max((m.mean.dtype for m in many), key=lambda dtype: xp.finfo(dtype).bits)
    return [Moments(*(xp.astype(part, widest, copy=False) for part in m)) for m in many]
