"""The ratios of a run as a drawing."""

from pathlib import Path
from typing import Any


def draw(result: dict[str, Any], labels: dict[str, str], path: Path) -> None:
    """Requests a second as multiples of the peer's, with the spread over the rounds, into an SVG."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "analytics"  # the same numbers give the same file
    from matplotlib import pyplot

    kinds = {"single": "single events", "batch": "batches of 100"}
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 2.6), sharey=True, layout="constrained")
    names = [name for name in labels if name in result["results"]]
    for axis, (kind, title) in zip(axes, kinds.items(), strict=True):
        ratios = [result["results"][name][kind]["to_peer"] for name in names]
        middles = [one["median"] for one in ratios]
        spread = [[one["median"] - one["min"] for one in ratios], [one["max"] - one["median"] for one in ratios]]
        colors = ["#2b6cb0" if name in ("server", "embedded") else "#a0aec0" for name in names]
        bars = axis.barh([labels[name] for name in names], middles, xerr=spread, color=colors, capsize=3)
        axis.bar_label(bars, [f"{one:.1f}×" for one in middles], padding=10)
        axis.set_title(f"{title}: requests/s ÷ the FastAPI peer's", fontsize=9)
        axis.margins(x=0.2)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()  # the axes share it
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
