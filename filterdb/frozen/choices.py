"""The options of a replacement: the matching of templates, and the repairs after it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Literal

from filterdb.errors import InvalidArgument, not_found

By = Literal["weights", "inputs"]
MATCHES = ("weights", "inputs")


@dataclass(frozen=True)
class Matching:
    """How templates are chosen for kernels."""

    match: By = "weights"
    """Templates by the "weights", exactly as ``nearest`` finds them, or by the inputs of the layers on images: "inputs"."""
    signed: bool = False
    """Only positive gains."""
    layers: str | Sequence[str] | None = None
    """Only these layers: names or globs."""
    resize: str = "none"
    """What becomes of kernels of sizes that the bank lacks: "none" leaves them, "formula" takes the bank at their size by its
    formula, "crop" the centre crop of its templates for smaller kernels."""
    mix: float = 0.0
    """A kernel becomes a mixture of two templates if one template keeps less than this share of its energy."""

    def __post_init__(self) -> None:
        if self.match not in MATCHES:
            raise InvalidArgument(f'match "{self.match}" is not a choice. Choose weights or inputs.')

    @classmethod
    def of(cls, matching: By | Matching | None) -> Matching:
        """The argument of a method, as ``Matching``; a single word is ``match``."""
        return cls() if matching is None else matching if isinstance(matching, Matching) else cls(matching)


@dataclass(frozen=True)
class Repair:
    """The repairs after a replacement, on unlabelled images. None of them is training."""

    recalibrate: bool = False
    """Move the statistics of batch normalisations by what the replacement changed. Where it changed nothing, every bit stays."""
    reestimate: bool = False
    """Estimate the statistics of batch normalisations anew, from these images alone. This costs accuracy where little changed."""
    correct: bool = False
    """For networks without batch normalisation: set gains and biases of the replaced layers so that the mean and variance of each
    channel stay what they were."""
    pointwise: bool = False
    """Solve the pointwise layers behind depthwise ones again by least squares; then re-estimate batch norms, or correct. To move
    batch norms by a difference after it was measured to hurt, so ``recalibrate`` is left out with it."""

    @classmethod
    def of(cls, repair: str | Iterable[str] | Repair | None) -> Repair:
        """The argument of a method, as ``Repair``: itself, or the names of its fields.

        Raises:
            NotFound: no repair of that name.
        """
        if isinstance(repair, Repair):
            return repair
        known = [one.name for one in fields(cls)]
        names = [repair] if isinstance(repair, str) else list(repair or ())
        for name in names:
            if name not in known:
                raise not_found("repair", name, known)
        return cls(**dict.fromkeys(names, True))

    def __bool__(self) -> bool:
        return self.recalibrate or self.reestimate or self.correct or self.pointwise
