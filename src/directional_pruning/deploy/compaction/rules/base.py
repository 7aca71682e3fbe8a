"""What a rule must do, and the rule that keeps everything.

A rule says how one operation treats the channels of its tensors. To add a rule, write a class and name it in the
tables of ``dispatch.py``. The methods work on :class:`ChannelMasks`, one for each tensor, and only ever add elements
to ``needed`` and ``remaining``. This rule covers ``torch.square``:

>>> from directional_pruning.deploy.compaction.masks import align
>>> class Square(Rule):
...     def find_constants(self):
...         (x,) = self.inputs
...         return [ChannelMasks(x.shape, x.constant, x.value**2)]
...
...     def find_needed(self):
...         self.inputs[0].mark_needed(self.output.needed)
...
...     def propagate(self):
...         align([self.inputs[0].remaining, self.output.remaining])
"""

from typing import Any

import torch
from torch import Tensor, fx

from ..masks import ChannelMasks


class UnsupportedError(Exception):
    """The rule does not hold for this use of the operation, so that everything must be kept."""


class UnknownOperationError(UnsupportedError):
    """No rule covers this use of the operation: everything is kept, and a warning names it."""


class Rule:
    """One node of the graph, and what removing channels means for it.

    The solver calls the methods in this order:

    1. ``find_constants``, when the rule is made, inputs before outputs: return the masks of the outputs, with
       ``constant`` and ``value`` filled in from those of ``self.inputs``. Raise UnsupportedError if the rule does not
       hold for these inputs.
    2. ``replace_constant_input``: change the graph where an input is constant as a whole; return whether it changed.
       The solver then starts again.
    3. ``find_needed``, outputs before inputs: call ``mark_needed`` on the inputs, from ``needed`` of the outputs.
    4. ``propagate``, repeated until no mask changes: add to ``remaining`` of inputs and outputs until they fit each
       other. If output channel 3 needs input channel 3, then both remain or neither does.
    5. ``fix_conflicts``, when nothing changes any more: add to ``remaining`` what the operation cannot do without, and
       return whether anything was added. The solver then propagates again.
    6. ``rewrite``: make the node smaller, to the elements in ``remaining``.

    The defaults fit an operation that changes no channel: nothing is needed, added or rewritten.
    """

    def __init__(self, node: fx.Node, network: fx.GraphModule, rules: "dict[fx.Node, Rule]") -> None:
        self.node, self.network, self.rules = node, network, rules
        self.target: Any = node.target
        self.input_nodes = [n for n in node.all_input_nodes if rules[n].outputs]
        self.inputs = [masks for n in self.input_nodes for masks in rules[n].outputs]
        self.outputs = self.find_constants()

    def find_constants(self) -> list[ChannelMasks]:
        raise NotImplementedError

    def replace_constant_input(self) -> bool:
        return False

    def find_needed(self) -> None:
        pass

    def propagate(self) -> None:
        pass

    def fix_conflicts(self) -> bool:
        return False

    def rewrite(self) -> None:
        pass

    @property
    def output(self) -> ChannelMasks:
        """The masks of the only output."""
        return self.outputs[0]

    def keep_all(self) -> None:
        """Let every element of the inputs and outputs remain."""
        for masks in (*self.inputs, *self.outputs):
            masks.remaining.fill_(True)

    def run(self, replace: dict[fx.Node, Any], call: tuple[str, Any, tuple, dict] | None = None) -> Any:
        """Run the operation (or ``call``) on other tensors; every other argument is that of the example run."""

        def value(node: fx.Node) -> Any:
            return replace[node] if node in replace else node.meta["example"]

        op, target, args, kwargs = call or (self.node.op, self.target, self.node.args, self.node.kwargs)
        args, kwargs = fx.map_arg(args, value), fx.map_arg(kwargs, value)
        if op == "call_module":
            return self.network.get_submodule(target)(*args, **kwargs)
        if op == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        return target(*args, **kwargs)


class KeepAll(Rule):
    """The default rule, for every operation that no other rule covers: all is needed, nothing is removed."""

    def find_constants(self) -> list[ChannelMasks]:
        return [ChannelMasks.without_channels(t.shape) for t in tensors(self.node.meta["example"])]

    def find_needed(self) -> None:
        for masks in self.inputs:
            masks.mark_needed(torch.ones_like(masks.remaining))
            masks.remaining.fill_(True)

    def propagate(self) -> None:
        self.keep_all()


def tensors(value: Any) -> list[Tensor]:
    """The tensors of an example result: one, or those of a tuple or list."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [item for item in value if isinstance(item, Tensor)]
    return []
