"""What a results folder holds, for readers: leaderboard, LaTeX tables, one page for a browser."""

from lipbench.report.board import terminal, write_leaderboard
from lipbench.report.comparison import compare_runs, write_comparison
from lipbench.report.find import find_runs
from lipbench.report.latex import write_latex
from lipbench.report.leaderboard import leaderboard
from lipbench.report.page import write_page
from lipbench.report.pictures import discard_stale
from lipbench.results.runs import Problem, Run, Runs

__all__ = [
    "Problem",
    "Run",
    "Runs",
    "compare_runs",
    "discard_stale",
    "find_runs",
    "leaderboard",
    "terminal",
    "write_comparison",
    "write_latex",
    "write_leaderboard",
    "write_page",
]
