"""What `check` runs the norms on: generated data, or the user's own array."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from anynorm._report import say

if TYPE_CHECKING:
    from anynorm.testing._reference import Array, Namespace

SHAPE = (16, 32, 28, 28)
OFFSETS = (0.0, 1e4)


class Data(NamedTuple):
    """What the norms are run on: arrays of shape (N, C, *S), each with the offset it was given."""

    file: str | None
    dtype: str
    shape: tuple[int, ...]
    channel_axis: int
    arrays: tuple[tuple[float | None, Array], ...]


def asked_for(np: Namespace, file: str | None, channel_axis: int | None) -> Data:
    """Return the data that the arguments ask for; what is wrong with it is a ValueError."""
    if file is not None:
        return loaded(np, file, 1 if channel_axis is None else channel_axis)
    if channel_axis is not None:
        message = "--channel-axis says where --input has its channels: give both, or neither"
        raise ValueError(message)
    return generated(np)


def generated(np: Namespace) -> Data:
    """Return data of unit spread, at every offset."""
    noise = np.random.default_rng(0).standard_normal(SHAPE)
    return Data(None, "float32", SHAPE, 1, tuple((offset, (noise + offset).astype("float32")) for offset in OFFSETS))


def noise(np: Namespace, x: Array) -> Array:
    """Return a gradient for the norm of x, in x's dtype, or float32 where that is of integers."""
    dtype = x.dtype if x.dtype.kind == "f" else "float32"
    return np.random.default_rng(1).standard_normal(x.shape).astype(dtype)


def loaded(np: Namespace, file: str, channel_axis: int) -> Data:
    """Return the user's array."""
    x = read(np, file)
    if x.dtype.kind not in "biuf" or x.dtype.itemsize > 8:
        message = f"--input needs real numbers of at most 64 bits: {file} holds {x.dtype}; convert it, to float32 say"
        raise ValueError(message)
    if x.ndim < 2 or x.size == 0:
        rule = "rank 2 or more, for samples and channels" if x.ndim < 2 else "at least one element"
        message = f"--input needs an array of {rule}: {file} has shape {x.shape}"
        raise ValueError(message)
    if not -x.ndim <= channel_axis < x.ndim:
        message = f"--channel-axis needs an axis of {file}, {-x.ndim} to {x.ndim - 1}: got {channel_axis}"
        raise ValueError(message)
    if not np.all(np.isfinite(x)):
        message = f"--input needs finite numbers: {file} holds {np.sum(~np.isfinite(x))} that are NaN or infinite"
        raise ValueError(message)
    channel = channel_axis % x.ndim
    native = x.astype(x.dtype.newbyteorder("="), copy=False)  # NumPy alone knows both byte orders
    # The channels are moved in view alone, so that the libraries meet the user's own memory layout.
    a = np.moveaxis(native, channel, 1) if channel else native[None]
    return Data(file, x.dtype.name, x.shape, channel, ((None, a),))


def read(np: Namespace, file: str) -> Array:
    """Return the array in a .npy file."""
    try:
        with Path(file).open("rb") as stream:
            start = stream.read(6)
    except OSError as error:
        message = f"--input cannot be opened: {file}: {error.strerror}"
        raise ValueError(message) from None
    if start != b"\x93NUMPY":
        message = f"--input needs a .npy file, such as numpy.save writes: {file} is none"
        raise ValueError(message)
    try:
        return np.load(file, allow_pickle=False)
    except Exception as error:  # a damaged header raises anything
        message = f"--input needs a .npy file of plain numbers: {file} cannot be read ({say(error)})"
        raise ValueError(message) from None
