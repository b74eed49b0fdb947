"""The parameters of terms: checked once, searched, written as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
from ase import Atoms

from kernelpot.common.types import Array

if TYPE_CHECKING:  # base takes `Range` from here
    from kernelpot.terms.base import Descriptor, Kernel

Self = TypeVar("Self", bound="TermBase")

# How sparse points may be chosen (`kernelpot.regression.selection`).
SELECTIONS = ("farthest_point", "cur", "kmeans", "random")


@dataclass(frozen=True)
class Range:
    """How a search over kernels moves a parameter.

    Attributes
    ----------
    step : float
        Factor of a whole step, or what is added if `additive`.
    factors : (float, float), optional
        Default bounds as factors on the start.
    values : (float, float), optional
        Default bounds as values.
    integer, additive : bool
        Whether values are integers; whether a step is added (and never refined).
    minimum : float
        Smallest value that makes sense.
    by_default : bool
        Whether it is searched if nothing else is said.
    of_features : bool
        Whether it changes the features, not only how they are compared.
    """

    step: float
    factors: tuple[float, float] | None = None
    values: tuple[float, float] | None = None
    integer: bool = False
    additive: bool = False
    minimum: float = 0.0
    by_default: bool = True
    of_features: bool = True


# Sparse points, of any term: more are always better, and cost.
N_SPARSE_RANGE = Range(
    2.0, (0.25, 4.0), integer=True, minimum=1, by_default=False, of_features=False
)


class TermBase:
    """What a `Term` gets for nothing by being a dataclass.

    Fields are numbers, strings, None, tuples of these, or mappings of strings to numbers.
    `r_cut` [Å], `delta` [eV], `n_sparse` and `sparse_method` are fields of every term, or
    constants of its class; they are checked here.
    """

    kind: ClassVar[str]

    def __post_init__(self) -> None:
        """Check the fields of every term; a class with others calls this and checks its own.

        Raises
        ------
        ValueError, TypeError
            If a value is of the wrong type or out of range.
        """
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, list):  # as files have them
                object.__setattr__(self, field.name, _tuple_of(value))
            elif isinstance(value, Mapping):
                for key, number in value.items():
                    if not isinstance(key, str):
                        raise TypeError(f"keys of `{field.name}` must be strings, got {key!r}")
                    if not isinstance(number, (int, float, np.number)):
                        raise TypeError(f"`{field.name}[{key}]` must be a number, got {number!r}")
        r_cut, delta, n_sparse, method = map(
            self.value, ("r_cut", "delta", "n_sparse", "sparse_method")
        )
        require_number("r_cut", r_cut)
        require_number("delta", delta)
        require(r_cut >= 0, "r_cut", "positive or zero", r_cut)
        require(delta > 0, "delta", "positive", delta)
        if n_sparse is not None:
            require_number("n_sparse", n_sparse)
            whole = int(n_sparse) == n_sparse >= 1
            require(whole, "n_sparse", "a positive integer or None", n_sparse)
            object.__setattr__(self, "n_sparse", int(n_sparse))  # 6.0, as in files
        require(method in SELECTIONS, "sparse_method", f"one of {', '.join(SELECTIONS)}", method)

    def default_n_sparse(self, usual: int, n_keys: int) -> int:
        """Return the usual number.

        Parameters
        ----------
        usual : int
            Sparse points of a term that names no number.
        n_keys : int
            Classes of environments that the data have.

        Returns
        -------
        int
        """
        return usual

    def learned(
        self, species: tuple[int, ...], structures: Sequence[Atoms]
    ) -> tuple[dict[str, Array], list[str]]:
        """Return constants of the descriptor that are learned from data: none.

        Parameters
        ----------
        species : tuple of int
            Atomic numbers, ascending.
        structures : sequence of ase.Atoms

        Returns
        -------
        constants : dict of str to ndarray
            For `descriptor`.
        notes : list of str
            On what was learned, for the user.
        """
        return {}, []

    def kernel_of(self, descriptor: Descriptor) -> Kernel:
        """The kernel, with what it needs to know of the descriptor's constants: nothing.

        Parameters
        ----------
        descriptor : Descriptor

        Returns
        -------
        Kernel
        """
        kernel: Kernel = self.kernel()  # type: ignore[attr-defined]
        return kernel

    def value(self, name: str) -> Any:
        """Return the value of a parameter.

        Parameters
        ----------
        name : str

        Returns
        -------
        float, int, str or None
        """
        return getattr(self, name)

    def changed(self: Self, **values: Any) -> Self:
        """Return the same term with other values of some parameters.

        Parameters
        ----------
        **values
            Fields of the dataclass.

        Returns
        -------
        term
        """
        return replace(self, **values)  # type: ignore[type-var]

    def to_dict(self) -> dict[str, Any]:
        """Plain data that the term can be rebuilt from.

        Returns
        -------
        dict
        """
        result: dict[str, Any] = {"kind": self.kind}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, Mapping):
                value = {str(k): float(v) for k, v in value.items()}
            elif isinstance(value, np.generic):
                value = value.item()
            result[field.name] = value
        return result

    @classmethod
    def from_dict(cls: type[Self], data: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`.

        Parameters
        ----------
        data : mapping

        Returns
        -------
        term

        Raises
        ------
        TypeError
            If a field is unknown or missing.
        """
        return cls(**{name: value for name, value in data.items() if name != "kind"})

    @classmethod
    def example(cls: type[Self], species: tuple[int, ...]) -> Self:
        """A small term of this kind, to try things out with: the tests of all kinds do.

        Parameters
        ----------
        species : tuple of int
            Atomic numbers it will be used for.

        Returns
        -------
        term
        """
        return cls(r_cut=4.0)  # type: ignore[call-arg]


def _tuple_of(values: list[Any]) -> tuple[Any, ...]:
    return tuple(_tuple_of(v) if isinstance(v, list) else v for v in values)


def require(condition: bool, name: str, expected: str, value: object) -> None:
    """Refuse a value of a parameter.

    Raises
    ------
    ValueError
        Unless the condition holds.
    """
    if not condition:
        raise ValueError(f"`{name}` must be {expected}, got {value!r}")


def require_number(name: str, value: object) -> None:
    """Refuse what is no finite number.

    Raises
    ------
    TypeError, ValueError
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"`{name}` must be a number, got {value!r}")
    require(bool(np.isfinite(value)), name, "finite", value)
