"""Health flags: what makes a number of the results doubtful."""

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Flag:
    """One sign.

    Attributes:
        name: what it is called, such as "zero_gradients".
        severity: "warning" or "note".
        message: what was seen, what it means, what to do.
        method: the attack or certificate that it is about; "" for the model.
    """

    name: str
    severity: Literal["warning", "note"]
    message: str
    method: str = ""

    def __str__(self) -> str:
        return f"{self.severity}: {self.name}{f' ({self.method})' if self.method else ''}: {self.message}"

    @property
    def count(self) -> int:
        """How many images it is about, where the message begins with their number; else 0."""
        first = self.message.partition(" ")[0]
        return int(first) if first.isdecimal() else 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)
