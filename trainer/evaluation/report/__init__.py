"""One self-contained HTML page about a run: verdict, curves, rollouts, first batch, model, data, config."""

from trainer.evaluation.report.page import build_report
from trainer.evaluation.report.run_folder import ReportError

__all__ = ["ReportError", "build_report"]
