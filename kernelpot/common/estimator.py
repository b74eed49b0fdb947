"""The protocol of scikit-learn's estimators, by hand."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

T = TypeVar("T", bound="Estimator")


class Estimator:
    """What `sklearn.base.BaseEstimator` offers, without importing scikit-learn.

    scikit-learn takes longer to import than a model to load and predict, and neither needs
    it; inheriting from its class would import it with every potential. Its tools only ask
    for the methods below: `sklearn.base.clone` for `get_params` and a constructor that
    stores its arguments as they are, `check_is_fitted` for tags and `__sklearn_is_fitted__`.
    Tags, which only scikit-learn asks for, are made by scikit-learn.

    What is fitted is kept in ``fitted_``.
    """

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        """Parameters of the constructor with their defaults."""
        parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
        return {parameter.name: parameter.default for parameter in parameters}

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters of the constructor.

        Parameters
        ----------
        deep : bool, default=True
            Plays no part: no parameter has parameters of this kind.

        Returns
        -------
        dict
            Values by name.
        """
        return {name: getattr(self, name) for name in self._defaults()}

    def set_params(self: T, **params: Any) -> T:
        """Set parameters of the constructor; the next fit goes by them.

        Parameters
        ----------
        **params
            Values by name.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If there is no such parameter; nothing is set then.
        """
        known = self._defaults()
        unknown = sorted(set(params) - set(known))
        if unknown:
            raise ValueError(
                f"{type(self).__name__} has no parameter {', '.join(map(repr, unknown))}; it has "
                f"{', '.join(sorted(known))}"
            )
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        """Show the parameters that differ from their defaults."""
        changed = [f"{name}={value!r}" for name, value in self._changed().items()]
        return f"{type(self).__name__}({', '.join(changed)})"

    def _changed(self) -> dict[str, Any]:
        """Parameters that differ from their defaults."""
        defaults = self._defaults()
        # by their text: arrays and structures have no single answer to ==
        return {
            name: value
            for name, value in self.get_params().items()
            if repr(value) != repr(defaults[name])
        }

    def __sklearn_is_fitted__(self) -> bool:
        """Whether there is a fit (or a model was loaded)."""
        return hasattr(self, "fitted_")

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn wants to know: structures in, no separate target."""
        from sklearn.utils import InputTags, Tags, TargetTags

        return Tags(
            estimator_type=None,
            target_tags=TargetTags(required=False),
            input_tags=InputTags(two_d_array=False),
        )
