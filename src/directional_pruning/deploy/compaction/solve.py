"""The solver: from a traced network to the smaller one, by the rules of its nodes."""

from collections import defaultdict
from collections.abc import Iterable

from torch import fx

from .graph import count_uses, note_shapes, remove_unused
from .masks import ChannelMasks, make_rectangular
from .rules.base import Rule
from .rules.dispatch import rule_for


def remove_channels(network: fx.GraphModule, inputs: tuple) -> list[str]:
    """Remove in place the channels that are constant or not needed; returns the names of operations without a rule.

    One pass removes what follows from the zeros. The smaller network may have new constants, because a tensor can be
    constant in all channels that remain. So passes repeat until no weight changes its shape.
    """
    while True:
        before = _weight_shapes(network)
        rules, unknown = _make_rules(network)
        while _replace_constant_inputs(rules):
            remove_unused(network)
            note_shapes(network, inputs)
            rules, unknown = _make_rules(network)
        for rule in reversed(rules.values()):
            rule.find_needed()
        _propagate(list(rules.values()))
        for rule in rules.values():
            rule.rewrite()
        remove_unused(network)
        if _weight_shapes(network) == before:
            return unknown
        note_shapes(network, inputs)


def _weight_shapes(network: fx.GraphModule) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(p.shape)) for name, p in network.named_parameters() if p.ndim > 1]


def _make_rules(network: fx.GraphModule) -> tuple[dict[fx.Node, Rule], list[str]]:
    """The rule of every node, and the names of operations without one."""
    rules: dict[fx.Node, Rule] = {}
    unknown: list[str] = []
    uses = count_uses(network)
    for node in network.graph.nodes:
        rules[node] = rule_for(node, network, rules, exclusive=uses[str(node.target)] == 1, unknown=unknown)
    return rules, unknown


def _replace_constant_inputs(rules: dict[fx.Node, Rule]) -> bool:
    """Ask every rule; returns whether any changed the graph."""
    changes = [rule.replace_constant_input() for rule in rules.values()]
    return any(changes)


def _propagate(rules: list[Rule]) -> None:
    """Add to the masks until the tensors of every operation fit each other and no rule finds a conflict."""
    rules_of: dict[ChannelMasks, list[Rule]] = defaultdict(list)
    for rule in rules:
        for masks in {*rule.inputs, *rule.outputs}:
            rules_of[masks].append(rule)

    def propagate_from(start: Iterable[Rule]) -> None:
        queue = dict.fromkeys(start)
        while queue:
            rule = next(iter(queue))
            del queue[rule]
            before = [(masks, masks.remaining.clone()) for masks in {*rule.inputs, *rule.outputs}]
            rule.propagate()
            for masks, old in before:
                masks.remaining |= make_rectangular(masks.remaining)
                if not masks.remaining.equal(old):
                    queue.update(dict.fromkeys(rules_of[masks]))

    propagate_from(rules)
    conflicts = True
    while conflicts:
        conflicts = False
        for rule in rules:
            if rule.fix_conflicts():
                conflicts = True
                propagate_from({other for masks in (*rule.inputs, *rule.outputs) for other in rules_of[masks]})
