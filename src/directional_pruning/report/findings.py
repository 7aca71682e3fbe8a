"""What a run's summary says went wrong, and what it remarks on the accuracies."""

from collections.abc import Sequence

from ..run_folder import Finding, Run


def problems(run: Run) -> list[Finding]:
    """What went wrong, most important first; in a run without a judgement, what its zeros alone tell."""
    if run.summary.get("outcome") or (run.setting[0] == 0 and run.target is None):
        return [_finding(record) for record in run.summary.get("outcome", []) if record.get("problem", True)]
    layers = run.summary.get("layers", [])
    last = run.of("grda")[-1:] or [{}]
    empty = [layer for layer in layers if not layer["nonzeros"]]
    value = f"c than {run.setting[0]:g}" if run.target is None else f"target than {run.target:g}"
    advice = f"use a smaller --{value}"
    if (layers and empty == layers) or (not run.summary and last[0].get("sparsity_prunable", 0) >= 1):
        return [
            Finding("grda", "constant", f"The sparse network is constant: all its prunable weights are zero; {advice}")
        ]
    if empty:
        names = ", ".join(str(layer["name"]) for layer in empty[:3]) + ", ..." * (len(empty) > 3)
        return [Finding("grda", "empty layers", f"Layers without a weight that is not zero: {names}; {advice}")]
    return []


def remarks(run: Run) -> list[Finding]:
    """What the difference in accuracy means."""
    return [_finding(record) for record in run.summary.get("outcome", []) if not record.get("problem", True)]


def kinds(findings: Sequence[Finding], network: str = "") -> str:
    """The findings in a few words, each once; of one network, if it is given."""
    return ", ".join(dict.fromkeys(finding.kind for finding in findings if network in ("", finding.network)))


def _finding(record: dict[str, object]) -> Finding:
    texts = (str(record.get(key, "")) for key in ("network", "kind", "text"))
    return Finding(*texts, problem=bool(record.get("problem", True)))
