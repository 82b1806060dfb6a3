"""One self-contained HTML page about a run: verdict, curves, rollouts, first batch, model, data, config."""

from trainer.pages.report.page import build_report
from trainer.pages.report.run_folder import ReportError, read_verdicts

__all__ = ["ReportError", "build_report", "read_verdicts"]
