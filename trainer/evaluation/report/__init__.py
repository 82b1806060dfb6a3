"""One self-contained HTML page about a run: verdict, curves, rollouts, first batch, model, data, config."""

from trainer.evaluation.report.page import build_report
from trainer.evaluation.report.run_folder import ReportError, read_verdicts

__all__ = ["ReportError", "build_report", "read_verdicts"]
