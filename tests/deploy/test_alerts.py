"""deploy/alerts.yaml: its rules are about metrics that the server exports."""

import re
from pathlib import Path

import yaml

from server.metrics import Metrics, Snapshot

RULES = Path(__file__).parents[2] / "deploy/alerts.yaml"


def test_alerts_name_exported_metrics() -> None:
    metrics = Metrics()
    metrics.add_gauges(
        lambda: Snapshot(
            sequences_running=0, sequences_waiting=0, model_swaps=0, model_swap_failures=0, is_failing=True
        )
    )
    [group] = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    named = [re.match(r"\w+", rule["expr"]) for rule in group["rules"]]
    exported = metrics.export().decode()
    assert "randygpt_model_swap_failing 1.0" in exported
    assert [found[0] for found in named if found] == ["up", "randygpt_model_swap_failing"]
