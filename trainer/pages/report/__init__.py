"""Self-contained HTML pages about a run (verdict, curves, rollouts, batch, model, data) and about several."""

from trainer.pages.report.comparison import build_comparison
from trainer.pages.report.page import build_report
from trainer.pages.report.run_folder import ReportError, read_verdicts

__all__ = ["ReportError", "build_comparison", "build_report", "read_verdicts"]
