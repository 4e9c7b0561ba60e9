"""The leaderboard for people: one self-contained HTML page, the pieces beside it, and tables in text and markdown.

Belongs here: ordering rows, saying what won and whether that is real, counting what went wrong,
choosing which photos to show, laying out the page. Does not belong here: computing scores
(`scores`, `compare`), drawing (`overlay`, `plots`) or deciding about a release (`audits`).

Reading order: `rows`, `verdict`, `outcomes`, `gallery`, `page`.
"""

from __future__ import annotations

from nutridet_core.report.page import write_report
from nutridet_core.report.rows import Curve, Kind, Row, leaderboard_markdown, leaderboard_text, rank

__all__ = ["Curve", "Kind", "Row", "leaderboard_markdown", "leaderboard_text", "rank", "write_report"]
