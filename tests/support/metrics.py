"""What a scrape of ``/metrics`` says."""

from prometheus_client.parser import text_string_to_metric_families

from tests.support.service import Service


class Page:
    """The samples of one scrape."""

    def __init__(self, text: str) -> None:
        self.samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def get(self, name: str, *, default: float | None = None, **labels: str) -> float:
        """The sum of the samples of that name with these labels; without any, ``default`` if there is one."""
        found = [one.value for one in self.samples if one.name == name and labels.items() <= one.labels.items()]
        if not found and default is not None:
            return default
        assert found, (name, labels, [one for one in self.samples if one.name == name])
        return float(sum(found))

    def series(self, name: str) -> list[tuple[dict[str, str], float]]:
        """The samples of that name, each as its labels and its value."""
        return [(one.labels, one.value) for one in self.samples if one.name == name]

    def balance(self) -> dict[str, float]:
        """Where the acknowledged events of this life of the process are, asserted to add up."""
        counts = ("accepted", "recovered", "flushed", "duplicate", "quarantined", "lost")
        found = {name: self.get(f"analytics_events_{name}_total") for name in counts}
        found["pending"] = self.get("analytics_pending_events")
        came = found["accepted"] + found["recovered"]
        assert came == sum(found.values()) - came, found
        return found


def scrape(service: Service, token: str | None = None) -> Page:
    """The metrics of a service; they must be there."""
    answer = service.send("GET", "/metrics", token=token)
    assert answer.status == 200, answer
    return Page(answer.body.decode())
