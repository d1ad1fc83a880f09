"""The report: one page with curves, misses, false alarms and pictures of an evaluation."""

from fastad.evaluation.report.report import Report, check_report_folder

__all__ = ["Report", "check_report_folder"]
