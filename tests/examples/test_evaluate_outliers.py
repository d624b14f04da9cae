"""`examples/evaluate_outliers.py`: the area under the curve, and that the script runs."""

import evaluate_outliers
import numpy as np
import pytest


def test_the_area_is_the_share_of_pairs_in_the_right_order():
    assert evaluate_outliers.area(np.array([1.0, 2.0]), np.array([3.0, 4.0])) == 1
    assert evaluate_outliers.area(np.array([1.0, 2.0]), np.array([1.0, 2.0])) == 0.5
    rng = np.random.default_rng(0)
    normal, odd = rng.normal(size=500), rng.normal(1, 1, 500)
    assert evaluate_outliers.area(normal, odd) == pytest.approx(0.76, abs=0.03)  # Phi(1 / sqrt 2)
    assert 0.01 < evaluate_outliers.area_error(normal, odd) < 0.025


def test_smoke(tmp_path, capsys):
    args = evaluate_outliers.parse_arguments(["spectok-tiny", "--smoke", "--output", str(tmp_path / "table")])
    rows = evaluate_outliers.run(args)
    methods = {row["method"] for row in rows}
    assert {evaluate_outliers.OURS, evaluate_outliers.BASELINE} <= methods
    assert {row["kind"] for row in rows} == set(evaluate_outliers.ANOMALIES)
    assert all(0 <= row["auc"] <= 1 and row["error"] >= 0 for row in rows)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table.csv", "table.md"]
    assert "| detector | " in capsys.readouterr().out
