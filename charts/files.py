"""Copies what a release brings along into its chart, as Helm reads nothing outside: `python charts/files.py [ROOT]`."""

import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
SOURCE = HERE / "deploy/observability"
TARGET = Path("charts/sluice/files")


def written(root: Path) -> None:
    """Write the rules of Prometheus and Grafana's dashboards below `root`; a dashboard that is no more goes."""
    dashboards = root / TARGET / "dashboards"
    shutil.rmtree(dashboards, ignore_errors=True)
    dashboards.mkdir(parents=True)
    shutil.copyfile(SOURCE / "prometheus/rules.yaml", root / TARGET / "rules.yaml")
    for path in sorted((SOURCE / "grafana").glob("*.json")):
        shutil.copyfile(path, dashboards / path.name)


if __name__ == "__main__":
    written(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
