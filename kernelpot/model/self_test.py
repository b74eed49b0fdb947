"""What a model's test of itself found: whether dynamics with it is safe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


class UnsafePotentialWarning(UserWarning):
    """A potential whose test of itself failed is used for dynamics."""


@dataclass(frozen=True)
class Check:
    """One of the checks.

    Attributes
    ----------
    name : str
        What was tried.
    passed : bool
    found : str
        What happened, in numbers.
    remedy : str
        What would help.
    """

    name: str
    passed: bool
    found: str
    remedy: str


@dataclass(frozen=True)
class SelfTest:
    """All checks.

    Attributes
    ----------
    checks : sequence of Check
    seconds : float
        What they cost.
    """

    checks: Sequence[Check]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether all checks were."""
        return all(check.passed for check in self.checks)

    @property
    def verdict(self) -> str:
        """One sentence."""
        failed = [check for check in self.checks if not check.passed]
        if not failed:
            return f"passed its test of itself ({len(self.checks)} checks, {self.seconds:.0f} s)"
        reasons = "; ".join(f"{check.name}: {check.found}" for check in failed)
        remedies = "; ".join(dict.fromkeys(check.remedy for check in failed))
        return f"not safe for dynamics: {reasons}. What would help: {remedies}"

    def lines(self) -> list[str]:
        """The verdict, and what every check found."""
        return [
            self.verdict,
            *(
                f"  {'passed' if check.passed else 'FAILED'}  {check.name}: {check.found}"
                for check in self.checks
            ),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for files and reports.

        Returns
        -------
        dict
        """
        return {
            "passed": self.passed,
            "verdict": self.verdict,
            "checks": [asdict(check) for check in self.checks],
            "seconds": self.seconds,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SelfTest:
        """Inverse of `to_dict`.

        Parameters
        ----------
        data : mapping

        Returns
        -------
        SelfTest
        """
        return cls([Check(**check) for check in data["checks"]], float(data["seconds"]))
