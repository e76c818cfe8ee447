"""How long nothing may come before a study counts as complete: as the pipelines that want it say."""

from collections.abc import Iterator, Mapping, Sequence

from node.errors import DatasetError
from node.index import Index
from node.routing import Rule, Scopes, route
from node.steps import group_by_series, read_series


class RouteQuiet:
    """The quiet periods, in seconds, where some pipelines have one of their own.

    Of several pipelines that want a study the longest counts: it is read once for all.
    """

    def __init__(
        self,
        index: Index,
        rules: Sequence[Rule],
        scopes: Scopes,
        own_s: Mapping[str, float],
        default_s: float,
    ) -> None:
        self._index = index
        self._rules = rules
        self._scopes = scopes
        self._own_s = own_s
        self._default_s = default_s
        self.shortest_s = min(default_s, *own_s.values())

    def period_s(self, study_instance_uid: str) -> float:
        """Return the period of a study by what is here of it; the default where no pipeline wants it."""
        wanted = {self._own_s.get(name, self._default_s) for name in self._pipelines(study_instance_uid)}
        return max(wanted, default=self._default_s)

    def _pipelines(self, study_instance_uid: str) -> Iterator[str]:
        arrivals = self._index.instances(study_instance_uid)
        for members in group_by_series(arrivals).values():
            try:
                yield from route(read_series(members, arrivals), self._rules, self._scopes).pipelines
            except DatasetError:  # its study ends with this reason once it is planned
                continue
