"""Define a case of an alert."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from testbed.alerts.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What happens, and which alert it raises, and never any other."""

    alert: str
    bad: World
    fires: int
    """First minute at which it fires."""
    clears: int
    """First minute at which it does not fire any more."""
    says: str
    """Its description when it begins to fire."""
    near: World = field(default_factory=dict)
    """What may happen and raises nothing."""
    labels: Mapping[str, str] = field(default_factory=dict)
    before: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Alerts that fire, too, at a different time: the first minute, and the first one after."""
    note: str = ""
    """Distinguishes cases of an alert with the same labels."""
    after: int = 3
    """Minutes for which nothing may fire afterwards."""

    @property
    def environment(self) -> str:
        """The name of the environment, which describes the case."""
        return "-".join(filter(None, (self.alert, *self.labels.values(), self.note)))

    @property
    def times(self) -> dict[str, tuple[int, int]]:
        """Each alert that fires, with its first minute, and the first one after."""
        return {self.alert: (self.fires, self.clears), **self.before}

    @property
    def until(self) -> int:
        """The length of the run in minutes."""
        return self.clears + self.after
