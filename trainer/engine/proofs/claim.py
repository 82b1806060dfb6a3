"""What a proof says: a claim, the number that was measured for it, and what is wrong where it fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from model_constructor import ConfigPath, SourceLocation, format_path

from trainer.config.validation import Issues

Verdict = Literal["holds", "fails", "does not apply"]


@dataclass(frozen=True)
class Fault:
    """What makes a claim fail, and the place that made it.

    Attributes:
        path: of the value in the configuration.
        message: one sentence without its full stop.
        hint: what to do about it.
        location: a place in a model YAML, which counts instead of that of `path`.
    """

    path: ConfigPath
    message: str
    hint: str | None = None
    location: SourceLocation | None = None


@dataclass(frozen=True)
class Claim:
    """One sentence about a run that was put to the test.

    Attributes:
        about: the group that it belongs to, such as `weights`.
        text: what is claimed.
        measured: the number that was measured; of a claim that does not apply, why not.
        applies: whether there was something to measure.
        faults: what is wrong; the claim holds if there is nothing.
    """

    about: str
    text: str
    measured: str
    applies: bool = True
    faults: Sequence[Fault] = ()

    @property
    def verdict(self) -> Verdict:
        """How it came out."""
        return "fails" if self.faults else "holds" if self.applies else "does not apply"

    def plain(self) -> Mapping[str, Any]:
        """Return it ready for JSON."""
        faults = [{"path": format_path(f.path), "message": f.message, "hint": f.hint} for f in self.faults]
        return {
            "about": self.about,
            "claim": self.text,
            "verdict": self.verdict,
            "measured": self.measured,
            "faults": faults,
        }


def not_applicable(about: str, text: str, why: str) -> Claim:
    """Return a claim for which there is nothing to measure."""
    return Claim(about, text, why, applies=False)


def note_faults(issues: Issues, claims: Sequence[Claim]) -> None:
    """Note what is wrong as mistakes in the configuration, each at its place."""
    for claim in claims:
        for fault in claim.faults:
            issues.add_in_model(fault.path, fault.message, fault.location, fault.hint)
