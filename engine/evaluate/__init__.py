"""Evaluation: predict, then learn, in time order; and live popularity to hold a model against."""

from .prequential import CALL_ROWS, Ranker, Report, prequential, ranks

__all__ = ["CALL_ROWS", "Ranker", "Report", "prequential", "ranks"]
