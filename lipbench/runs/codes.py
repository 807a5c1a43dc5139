"""Exit codes; of several runs a failure counts most. 75 is EX_TEMPFAIL of sysexits.h: to be tried again."""

FINISHED, FAILED, ELSEWHERE, INTERRUPTED = 0, 1, 75, 130
