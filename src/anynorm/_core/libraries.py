"""The array libraries: one record each of what it does otherwise, and which of them an array is of.

Whatever is not named here follows the array API standard, and has the record of nobody in particular.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, NamedTuple, TypeAlias

Array: TypeAlias = Any  # an array of any library: the standard has no type for it yet
Namespace: TypeAlias = Any
Shape: TypeAlias = tuple[int, ...]  # the standard has None for a size that only a run of the graph knows


class Library(NamedTuple):
    """What a library does otherwise."""

    name: str  # by which a user knows it
    module: str = ""
    kinds: tuple[str, ...] = ()  # the classes of its arrays, in its module
    namespace: str = ""  # the module that makes it follow the standard
    has_devices: bool = True  # NumPy and Dask have one, MLX one memory; JAX refuses mixed ones, its tracers have none
    is_memory: bool = False  # what an array holds may be written over, and nobody records what was there
    is_lazy: bool = False  # sizes may be NaN
    welcomes_numpy: bool = False  # beside its own arrays, as its own functions do: what is made of both is its own
    is_chunked: bool = False  # arrays come in chunks, which results are to keep
    made_as: tuple[str, ...] = ()  # what else of an array those that are made beside it have to share
    is_sparse: bool = False  # an array holds what differs from its fill value; arrays of several do not stack
    has_scalars: bool = False  # an array without axes may become a scalar; and it warns of what is not a number
    sums_exactly: bool = False  # its sums do in every dtype: blocks of ours would only split its own
    sums_short: bool = False  # in chains so few that all rounds as a large element does
    rounds_anew: bool = False  # what follows a sum, in every consumer of it; and squares below the normal numbers to 0
    always_float64: bool = False  # on every device


TORCH = "array_api_compat.torch"
LIBRARIES = (
    Library(
        "numpy", "numpy", ("ndarray", "generic"), "array_api_compat.numpy",
        has_devices=False, is_memory=True, has_scalars=True, always_float64=True,
    ),
    Library("torch", "torch", ("Tensor",), TORCH, sums_exactly=True, sums_short=True),
    Library(
        "jax", "jax", ("Array",), "jax.numpy",
        has_devices=False, welcomes_numpy=True, sums_exactly=True, rounds_anew=True,
    ),
    Library("cupy", "cupy", ("ndarray",), "array_api_compat.cupy", is_memory=True),
    Library(
        "dask", "dask.array", ("Array",), "array_api_compat.dask.array",
        has_devices=False, is_lazy=True, is_chunked=True, welcomes_numpy=True, sums_exactly=True,
    ),
    Library("mlx", "mlx.core", ("array",), "anynorm._adapters.mlx", has_devices=False),
    Library("cubed", "cubed", ("Array",), "cubed", is_chunked=True, made_as=("spec",)),
    Library("sparse", "sparse", ("SparseArray",), "sparse", is_sparse=True),
)  # fmt: skip
_RECORDS = {library.namespace: library for library in LIBRARIES}


def record(xp: Namespace) -> Library:
    """Return the record of a namespace; of a stranger, its name alone."""
    name: str = xp.__name__
    found = _RECORDS.get(name)
    return Library(name) if found is None else found


def library_name(xp: Namespace) -> str:
    """Return the name a user knows the library by."""
    return record(xp).name


# ---------------------------------------------------------------------------------- whose array


_REFUSED = (  # kinds of array whose arithmetic is another, and what to pass in their place
    ("numpy.ma", "MaskedArray", "masked arrays", "its .data, and where=~numpy.ma.getmaskarray(x)"),
    ("numpy", "matrix", "matrices", "numpy.asarray(x)"),
)
NEEDED = (  # of a namespace: what array-API code calls
    "__array_namespace_info__", "any", "astype", "concat", "expand_dims", "finfo", "float32", "isdtype",
    "isinf", "max", "min", "ones", "reshape", "sqrt", "squeeze", "stack", "sum", "where", "zeros", "zeros_like",
)  # fmt: skip
_namespaces: dict[type, Namespace | None] = {}
_registered: dict[type, Namespace] = {}


def register(array_type: type, namespace: Namespace, /) -> None:
    """Have arrays of a type computed by a namespace that follows the array API standard for them.

    It is for libraries that do not follow the standard themselves, or not far enough. NumPy, CuPy, JAX, PyTorch, Dask,
    MLX and whatever follows the standard need no registration.

    Parameters
    ----------
    array_type : type
        The class of the arrays. Its subclasses count as well, unless they are registered themselves. Registering it
        again replaces its namespace.
    namespace : module or class
        The functions of the standard that anynorm calls, as :doc:`the guide </guide/register>` lists them.

    Raises
    ------
    TypeError
        array_type is no class, or namespace is no module or class, or lacks some of the functions.
    ValueError
        array_type is of a library that anynorm knows by itself.

    See Also
    --------
    array_api_compat.array_namespace : finds the namespaces of the libraries that it knows, and takes no others.

    Examples
    --------
    >>> import numpy as np
    >>> import anynorm
    >>> class Boxed(np.lib.mixins.NDArrayOperatorsMixin):
    ...     def __init__(self, array):
    ...         self.array, self.dtype, self.ndim, self.shape = (
    ...             array,
    ...             array.dtype,
    ...             array.ndim,
    ...             array.shape,
    ...         )
    ...
    ...     def __getitem__(self, index):
    ...         return Boxed(self.array[index])
    ...
    ...     def __array_ufunc__(self, function, method, *arrays, **options):
    ...         return Boxed(getattr(function, method)(*map(unboxed, arrays), **options))
    ...
    ...     def __array_function__(self, function, types, arguments, options):
    ...         return Boxed(function(*map(unboxed, arguments), **options))
    >>> def unboxed(a):
    ...     return a.array if isinstance(a, Boxed) else a
    >>> anynorm.register(Boxed, np)  # whose functions ask Boxed what to do
    >>> y = anynorm.layer_norm(Boxed(np.asarray([[1.0, 3.0], [2.0, 6.0]])), eps=0)
    >>> type(y).__name__, y.array
    ('Boxed', array([[-1.,  1.],
           [-1.,  1.]]))
    """
    if not isinstance(array_type, type):
        message = f"register needs array_type to be a class: got {array_type!r}; pass type(x), of an array x"
        raise TypeError(message)
    for library in LIBRARIES:
        if any(issubclass(array_type, known) for known in _classes(library)):
            message = (
                f"register needs array_type to be of a library that anynorm does not know by itself: got "
                f"{array_type.__name__} of {library.name}; leave the registration out"
            )
            raise ValueError(message)
    missing = [name for name in ("__name__", *NEEDED) if not hasattr(namespace, name)]
    if missing:
        message = (
            f"register needs namespace to be a module or a class with the functions of the array API standard that "
            f"anynorm calls: got {namespace!r} without {', '.join(missing)}; add them"
        )
        raise TypeError(message)
    _registered[array_type] = namespace
    _namespaces.clear()  # which held what nobody had registered for None


def namespace_of(value: object) -> Namespace | None:
    """Return the array-API namespace of an array, None for anything else."""
    if is_compiling() and isinstance(value, sys.modules["torch"].Tensor):
        import array_api_compat.torch  # by a statement, since Dynamo traces no other way

        return array_api_compat.torch
    kind = type(value)
    if kind not in _namespaces:
        _namespaces[kind] = _find_namespace(value)
    return _namespaces[kind]


def _find_namespace(value: object) -> Namespace | None:
    """Find the namespace of an array.

    Not by array-api-compat's array_namespace: any broken module of a library's name breaks that for all libraries, it
    takes NumPy's arrays of JAX's float0 for JAX's, and Dynamo warns of its cache.
    """
    for module, name, plural, instead in _REFUSED:
        refused = _class(module, name)
        if refused is not None and isinstance(value, refused):
            message = f"anynorm takes no {plural}: got one; pass {instead}"
            raise TypeError(message)
    for library in LIBRARIES:
        if any(isinstance(value, known) for known in _classes(library)):
            return import_module(library.namespace)
    for kind in type(value).__mro__:
        if kind in _registered:
            return _registered[kind]
    found = getattr(value, "__array_namespace__", None)
    return None if found is None or isinstance(value, type) else found()


def _classes(library: Library) -> list[type]:
    """Return the classes of a library's arrays."""
    found = (_class(library.module, name) for name in library.kinds)
    return [kind for kind in found if kind is not None]


def _class(module: str, name: str) -> type | None:
    """Return a class of a module; None where nobody has imported that, so that there is no array of it.

    What goes by the module's name may be something else: a folder in the working directory, a stub.
    """
    kind = getattr(sys.modules.get(module), name, None)
    return kind if isinstance(kind, type) else None


def refusal(xp: Namespace, value: Array, *, ragged: bool = False) -> tuple[str, str] | None:
    """Return what keeps an array from being its elements alone, and how to get it rid of that; None where nothing does.

    Dask's arrays of masked blocks are refused as a block by itself would be. Rows of different lengths may be welcome.
    """
    library = record(xp)
    if library.is_lazy:
        namespace_of(value._meta)  # noqa: SLF001  a block of no elements
    if library.name != "torch":
        return None
    if value.is_nested:
        padded = "to_padded_tensor(0.0) and where="
        if value.layout is not sys.modules["torch"].jagged:
            return "nested", padded
        return None if ragged else ("nested", f"{padded}, or its values() for statistics over all samples")
    return None if value.layout is sys.modules["torch"].strided else (f"of layout {value.layout}", "to_dense()")


class Rows(NamedTuple):
    """How the rows of a jagged tensor, whose samples differ in length, lie packed one after another in a dense one.

    Its samples and its ragged axis are one axis there.
    """

    offsets: Array
    lengths: Array | None
    axis: int  # the ragged one

    def jagged(self, values: Array) -> Array:
        """Return the jagged tensor of packed rows."""
        from torch.nested import nested_tensor_from_jagged

        return nested_tensor_from_jagged(values, self.offsets, self.lengths, jagged_dim=self.axis)


def rows_of(xp: Namespace, x: Array) -> Rows | None:
    """Return how the rows of a jagged tensor are packed; None of anything else."""
    if library_name(xp) != "torch" or not x.is_nested:
        return None
    return Rows(x.offsets(), x.lengths(), x._ragged_idx)  # noqa: SLF001  it has no public name


def is_compiling() -> bool:
    """Whether torch is tracing the call, to compile or to export it.

    Then no dictionary is looked into that may grow: whenever it does, torch would trace anew.
    """
    compiler = getattr(sys.modules["torch"], "compiler", None) if "torch" in sys.modules else None
    return compiler is not None and compiler.is_compiling() is True  # which no stub is
