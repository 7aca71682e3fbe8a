"""From the units of a traced network to the smaller network: constants, needs, agreement, rewriting."""

from collections import defaultdict
from collections.abc import Iterable

from torch import fx, nn

from .masks import Units, rectangle
from .rules.base import Attribute, Rule
from .rules.dispatch import rule_for
from .rules.elementwise import Elementwise, Product
from .trace import name_of, note_shapes, uses


def shrink(network: fx.GraphModule, inputs: tuple) -> list[str]:
    """Remove in place what is constant or not needed; returns the names of operations that are not known.

    Once round finds what follows from the zeros. What is left can be all constant where the whole was not, so it goes
    round until nothing changes.
    """
    while True:
        before = _sizes(network)
        rules, notes = _analyse(network)
        while _replace_constants(network, rules):
            _clean(network)
            note_shapes(network, inputs)
            rules, notes = _analyse(network)
        for rule in reversed(rules.values()):
            rule.backward()
        _agree(list(rules.values()))
        for rule in rules.values():
            rule.rewrite()
        _clean(network)
        if _sizes(network) == before:
            return notes
        note_shapes(network, inputs)


def _sizes(network: fx.GraphModule) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(p.shape)) for name, p in network.named_parameters() if p.ndim > 1]


def _analyse(network: fx.GraphModule) -> tuple[dict[fx.Node, Rule], list[str]]:
    rules: dict[fx.Node, Rule] = {}
    notes: list[str] = []
    count = uses(network)
    for node in network.graph.nodes:
        rules[node] = rule_for(node, network, rules, count[str(node.target)] == 1, notes)
    return rules, notes


def _replace_constants(network: fx.GraphModule, rules: dict[fx.Node, Rule]) -> bool:
    """Where a tensor that is added or multiplied is constant as a whole, let the constant take its place."""
    found = False
    for node, rule in rules.items():
        if type(rule) not in (Elementwise, Product) or rule.out.known.all():
            continue
        for operand, units in zip(rule.operands, rule.ins):
            others = [other for other in rule.operands if other is not operand]
            same = [other for other in others if tuple(rules[other].out.shape) == rule.out.shape]
            changed_in_place = name_of(network, node).startswith("i") and node.args[0] is operand
            if not units.known.all() or isinstance(rules[operand], Attribute) or not same or changed_in_place:
                continue
            if not units.value.any() and name_of(network, node) in ("add", "iadd") and not node.kwargs:
                node.replace_all_uses_with(same[0])
            else:
                _insert_constant(network, node, operand, units)
            found = True
            break
    return found


def _insert_constant(network: fx.GraphModule, node: fx.Node, operand: fx.Node, units: Units) -> None:
    taken = {name for name, _ in network.named_parameters(recurse=False)}
    name = next(name for i in range(len(taken) + 1) if (name := f"constant{i}") not in taken)
    value = units.value.to(operand.meta["example"].dtype)
    network.register_parameter(name, nn.Parameter(value, requires_grad=value.is_floating_point()))
    with network.graph.inserting_before(node):
        node.replace_input_with(operand, network.graph.get_attr(name))


def _agree(rules: list[Rule]) -> None:
    """Keep more until every operation gets tensors that fit each other."""
    touching: dict[Units, list[Rule]] = defaultdict(list)
    for rule in rules:
        for units in {*rule.ins, *rule.outs}:
            touching[units].append(rule)

    def spread(queue: Iterable[Rule]) -> None:
        waiting = dict.fromkeys(queue)
        while waiting:
            rule = next(iter(waiting))
            del waiting[rule]
            own = {*rule.ins, *rule.outs}
            before = [(units, units.keep.clone()) for units in own]
            rule.tie()
            for units, old in before:
                units.keep |= rectangle(units.keep)
                if not units.keep.equal(old):
                    waiting.update(dict.fromkeys(touching[units]))

    spread(rules)
    again = True
    while again:
        again = False
        for rule in rules:
            if rule.settle():
                again = True
                spread({other for units in (*rule.ins, *rule.outs) for other in touching[units]})


def _clean(network: fx.GraphModule) -> None:
    """Forget what the graph no longer reads."""
    network.graph.eliminate_dead_code()
    network.delete_all_unused_submodules()
    network.recompile()
    called = [node.target for node in network.graph.nodes if node.op == "call_module"]
    whole = {module for target in called for module in network.get_submodule(target).modules()}
    read = {node.target for node in network.graph.nodes if node.op == "get_attr"}
    for prefix, module in network.named_modules():
        for name, _ in (
            [] if module in whole else [*module.named_parameters("", False), *module.named_buffers("", False)]
        ):
            if f"{prefix}.{name}".lstrip(".") not in read:
                delattr(module, name)
