"""What is timed: the cases."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LIBRARIES = ("numpy", "torch", "jax")
GROUPS = 8


class Case(NamedTuple):
    """A norm of one library, on arrays of one kind, run one way."""

    library: str
    norm: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    layout: str = "first"  # where the channels are; of torch, what the memory format is: its shape has them on axis 1
    work: str = "forward"  # or "both": forward, and the gradients of x, weight and bias
    mode: str = "all"  # threads; or "one" thread; of torch also "compiled", with all; of JAX, "eager" or "jit"
    given: str = "nothing"  # but x; or weight and bias: "affine", with "stats", to "train"; or "mask", "full mask"

    @property
    def name(self) -> str:
        """What it is called, in one line."""
        library, norm, shape, *rest = self
        return " ".join((library, norm, by(shape), *rest))

    @property
    def bytes(self) -> int:
        """How many bytes x has."""
        return math.prod(self.shape) * (4 if self.dtype == "float32" else 2)

    @property
    def masked(self) -> bool:
        """Whether a mask is given."""
        return self.given in ("mask", "full mask")

    @property
    def channel_axis(self) -> int:
        """Where x has its channels."""
        return -1 if self.layout == "last" and self.library != "torch" else 1


def by(shape: Sequence[int]) -> str:
    """Return a shape as 32x64x56x56."""
    return "x".join(map(str, shape))


TINY = (8, 64)
IMAGES, TOKENS = (32, 64, 56, 56), (4096, 1024)  # 26 and 17 MB in float32
SMALL_IMAGES, SMALL_TOKENS = (8, 64, 28, 28), (256, 1024)  # that a cache holds: 2 and 1 MB
EAGER_IMAGES = (4, 16, 8, 8)
TINY_IMAGES = (8, 16, 4, 4)
SIZES = {  # from 2 kB to 256 MB
    "layer": (TINY, (64, 256), (512, 1024), TOKENS, (16384, 4096)),
    "batch": (TINY, (8, 16, 16, 16), (16, 32, 32, 32), IMAGES, (64, 256, 64, 64)),
}
HALF = {"numpy": "float16", "torch": "bfloat16", "jax": "bfloat16"}


def last(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape with the channels of axis 1 moved last."""
    return (shape[0], *shape[2:], shape[1])


def cases_of(library: str) -> list[Case]:
    """Return everything that is timed of a library."""
    return list(dict.fromkeys(of_jax() if library == "jax" else of_arrays(library)))


def of_arrays(library: str) -> Iterator[Case]:
    """Yield the cases of NumPy or of torch."""
    single = [*arrays(library, IMAGES, TOKENS), *arrays(library, SMALL_IMAGES, SMALL_TOKENS)]
    single += [Case(library, norm, TINY) for norm in ("layer", "rms", "batch")]
    half = [case for case in arrays(library, IMAGES, TOKENS) if case.norm in ("batch", "layer", "rms")]
    for mode in ("all", "one"):
        for work in ("forward", "both"):
            yield from (case._replace(work=work, mode=mode) for case in single)
    for work in ("forward", "both"):
        yield from (case._replace(work=work, dtype=HALF[library]) for case in half)
    yield from of_sizes(library)
    yield from of_given(library)
    if library == "torch":
        yield from compiled()


def of_given(library: str) -> Iterator[Case]:
    """Yield the cases of NumPy or of torch that are given more than x."""
    yield Case(library, "layer", TINY, given="affine")
    yield from (Case(library, norm, TINY_IMAGES, given="affine") for norm in ("group", "instance"))
    yield from (Case(library, "batch", TINY_IMAGES, given=given) for given in ("stats", "train"))
    yield Case(library, "layer", TINY, work="both", given="affine")
    if library == "torch":
        yield Case(library, "layer", TOKENS, work="both", given="affine")
        yield from (Case(library, "group", shape, work="both", given="affine") for shape in (TINY_IMAGES, IMAGES))
    for given in ("mask", "full mask"):
        yield Case(library, "layer", TOKENS, given=given)
        yield Case(library, "batch", IMAGES, given=given)


def compiled() -> Iterator[Case]:
    """Yield the cases of torch.compile."""
    for work in ("forward", "both"):
        yield Case("torch", "layer", TOKENS, work=work, mode="compiled")
        yield from (Case("torch", norm, IMAGES, work=work, mode="compiled") for norm in ("group", "instance", "batch"))


def of_sizes(library: str) -> list[Case]:
    """Return the cases that the plot shows."""
    return [Case(library, norm, shape) for norm, shapes in SIZES.items() for shape in shapes]


def arrays(library: str, images: tuple[int, ...], tokens: tuple[int, ...]) -> Iterator[Case]:
    """Yield every norm, with the channels first, and with them last."""
    for norm in ("batch", "instance", "group"):
        yield Case(library, norm, images)
        yield Case(library, norm, images if library == "torch" else last(images), layout="last")
    yield Case(library, "layer", images)
    yield from (Case(library, norm, tokens) for norm in ("layer", "rms"))


def of_jax() -> Iterator[Case]:
    """Yield the cases of JAX: the channels last, as Flax has them."""
    eager = [Case("jax", norm, TINY, mode="eager") for norm in ("layer", "rms", "batch")]
    eager += [case._replace(mode="eager") for case in jax_arrays(EAGER_IMAGES, TINY)]
    jit = [case._replace(mode="jit") for case in (*jax_arrays(IMAGES, TOKENS), *jax_arrays(SMALL_IMAGES, SMALL_TOKENS))]
    jit += [case._replace(dtype=HALF["jax"]) for case in jit if case.shape in (last(IMAGES), TOKENS)]
    for work in ("forward", "both"):
        yield from (case._replace(work=work) for case in (*eager, *jit))


def jax_arrays(images: tuple[int, ...], tokens: tuple[int, ...]) -> Iterator[Case]:
    """Yield every norm with the channels last."""
    yield from (Case("jax", norm, last(images), layout="last") for norm in ("batch", "instance", "group", "layer"))
    yield from (Case("jax", norm, tokens) for norm in ("layer", "rms"))
