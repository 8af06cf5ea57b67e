"""Hypothesis, both and discovery side by side, each with shifted labels as the control: five seeds on head direction.

The sweep of configs/experiment/contrastive_workflow.yaml, run as a user does. What is reported of each setting is the
error of nearest neighbors on test data, the goodness of fit on test pairs and the consistency between seeds; the spread
is the standard deviation over seeds. Bounds say that labels are in the activity: what behavior and hybrid decode is
far from what shifted labels do, and they tell test pairs apart by more bits.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from _recordings import recording

from lvmzoo.comparison import Row, compare
from lvmzoo.sweep_runs import with_consistency
from lvmzoo.train_command import run as lvmzoo_train

SHOWN = {
    "behavior_error_knn ry": "kNN error of head direction, degrees",
    "goodness_of_fit_behavior": "goodness of fit of positives by label, bits",
    "goodness_of_fit_time": "goodness of fit of positives in time, bits",
    "consistency": "consistency over seeds (R2)",
}


def run() -> list[dict[str, Any]]:
    """Return lines of every setting."""
    with tempfile.TemporaryDirectory() as folder:
        data = f"data.path={recording('mouse_head_direction.nwb')}"
        quiet = ["report=false", "trainer.progress=false", "trainer.threads=1", f"output={folder}"]
        lvmzoo_train(["-m", "experiment=contrastive_workflow", data, *quiet])
        outcomes = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("sweep-*/job-*.json"))]
        outcomes = with_consistency(outcomes, [row.jobs for row in compare(outcomes).rows])
    return table(compare(outcomes).rows)


def table(settings: list[Row]) -> list[dict[str, Any]]:
    """Return lines from the rows of the sweep's table."""
    control = {row.settings[0]: row for row in settings if "shifted" in row.settings}
    lines = []
    for row in settings:
        mode, shifted = row.settings[0], "shifted" in row.settings
        for key, claim in SHOWN.items():
            if key not in row.values:
                continue
            value, spread = row.values[key].value, row.values[key].spread
            bound, ok = "beside it", True
            chance = control[mode].values[key].value if mode in control else 0.0
            if key == "behavior_error_knn ry" and not shifted:
                bound, ok = f"< a fifth of that of shifted labels, {chance:.1f}", value < chance / 5
            elif key == "goodness_of_fit_behavior" and not shifted:
                bound, ok = f"> that of shifted labels, {chance:.3f}", value > chance
            lines.append(
                {
                    "claim": f"{claim}: {mode}{', labels shifted' if shifted else ''}",
                    "source": "mouse_head_direction.nwb, wake, adn, last 30 % of the tracked time, 5 seeds",
                    "bound": bound,
                    "measured": round(value, 3),
                    "spread": None if spread is None else round(spread, 3),
                    "ok": ok,
                }
            )
    return lines


if __name__ == "__main__":
    for line in run():
        print(line, flush=True)
