"""What a check is: one cause, decided from a `Case`, with its evidence, its fix and its page."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

QUESTIONS = {1: "whose statistics?", 2: "remembered how?", 3: "used when?"}
LIKELIHOODS = ("usual", "often", "sometimes", "seldom")
CHECKS: dict[str, "Check"] = {}


@dataclass(frozen=True)
class Check:
    """One cause of trouble.

    Attributes
    ----------
    name : str
    question : {1, 2, 3}
        Which of the three is answered wrongly.
    page : str
        Where the site shows it.
    symptoms : dict of str
        What somebody sees who has it, in the words of the site's finder, each with how likely it is
        that this cause is behind: one of ``LIKELIHOODS``. Our judgement, from the threads that the
        pages cite.
    unless : tuple of str
        Causes that explain what this check would find; it is not asked where one was found.
    measure : callable
        Takes a `Case`; returns `Found`, `Undecided`, or None where all is well.
    """

    name: str
    question: int
    page: str
    symptoms: dict[str, str]
    unless: tuple[str, ...]
    measure: Callable[[Any], Any]

    @property
    def cause(self) -> str:
        """The cause in one sentence: the first line of the function's docstring."""
        return (self.measure.__doc__ or self.name).partition("\n")[0].rstrip(".")

    @property
    def call(self) -> str:
        """The line that looks for this cause alone."""
        return f'bnref.doctor.examine(model, data, only=["{self.name}"])'


@dataclass(frozen=True)
class Found:
    """A cause that was found: in which norms, by what evidence, and the code that mends it."""

    layers: tuple[str, ...]
    evidence: str
    fix: str


@dataclass(frozen=True)
class Undecided:
    """Why a cause could be neither found nor excluded."""

    reason: str


def check(
    question: int, page: str, *, symptoms: Mapping[str, str], unless: Iterable[str] = ()
) -> Callable:
    """Make a function the check of its name."""
    if not symptoms or not set(symptoms.values()) <= set(LIKELIHOODS):
        raise ValueError(f"symptoms must each have one of {LIKELIHOODS}; received {symptoms}")

    def registered(measure):
        name = measure.__name__
        CHECKS[name] = Check(name, question, page, dict(symptoms), tuple(unless), measure)
        return measure

    return registered


def paths(norms: Iterable[Any]) -> tuple[str, ...]:
    """The paths of norms, each once."""
    return tuple(dict.fromkeys(norm.path for norm in norms))
