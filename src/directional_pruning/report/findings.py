"""What a run's summary says went wrong, and what it remarks on the accuracies."""

from collections.abc import Sequence
from typing import NamedTuple

from ..run_folder import Run


class Finding(NamedTuple):
    """One line of the judgement of a run: the network, what it is in a few words, and in a sentence."""

    network: str
    kind: str
    text: str


def problems(run: Run) -> list[Finding]:
    """What went wrong, most important first; nothing for a run that was trained before runs were judged."""
    return [_finding(record) for record in run.summary.get("outcome", []) if record.get("problem", True)]


def remarks(run: Run) -> list[Finding]:
    """What the difference in accuracy means."""
    return [_finding(record) for record in run.summary.get("outcome", []) if not record.get("problem", True)]


def kinds(findings: Sequence[Finding], network: str = "") -> str:
    """The findings in a few words, each once; of one network, if it is given."""
    return ", ".join(dict.fromkeys(finding.kind for finding in findings if network in ("", finding.network)))


def _finding(record: dict[str, object]) -> Finding:
    return Finding(*(str(record.get(key, "")) for key in Finding._fields))
