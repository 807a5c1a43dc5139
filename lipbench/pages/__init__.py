"""What a results folder holds, for readers: leaderboard, LaTeX tables, one page for a browser."""

from lipbench.pages.comparison import compare_runs, write_comparison
from lipbench.pages.latex import write_latex
from lipbench.pages.leaderboard import leaderboard, write_leaderboard
from lipbench.pages.page import write_page
from lipbench.pages.pictures import discard_stale
from lipbench.pages.runs import Problem, Run, Runs, find_runs

__all__ = [
    "Problem",
    "Run",
    "Runs",
    "compare_runs",
    "discard_stale",
    "find_runs",
    "leaderboard",
    "write_comparison",
    "write_latex",
    "write_leaderboard",
    "write_page",
]
