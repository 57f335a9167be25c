"""Runs a network repeatedly while some of its layers change, without repeating what precedes the first change.

Modules that ended before a layer began cannot depend on it. If that layer is the first changed one of a run, each such module
returns its stored output, and only the rest is computed. The result is bit-identical to a whole run.

A run on one or two images finds these modules, and those whose outputs are still used later. The other outputs are not stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Memory = dict[nn.Module, Tensor]
"""The outputs of modules on one batch."""


class Stages:
    """The layers of a network that change, in the order in which they run, and what comes before each."""

    def __init__(self, module: nn.Module, layers: Sequence[str], x: Tensor):
        """
        Args:
            module: the network, in eval mode, with parameters that can have gradients.
            layers: the names of the layers that change.
            x: an image or two as the network takes them, (n, c, h, w).
        """
        self.module = module
        began, ended, outputs = _watched(module, x)
        never = len(began) + len(ended) + 1
        first = {name: began.get(module.get_submodule(name), never) for name in layers}
        self.level: dict[str, int] = {}
        """The position of each layer in the order."""
        self._before: list[dict[nn.Module, bool]] = []
        for name in sorted(layers, key=lambda one: first[one]):
            self.level[name] = len(self._before)
            done = {one for one, end in ended.items() if end < first[name] and one in outputs}
            self._before.append(dict.fromkeys(_largest(module, done), True))
        self._shapes = {one: output for one, output in outputs.items() if any(one in before for before in self._before)}
        with torch.inference_mode():
            whole = module(x)
        for level in range(len(self._before)):
            self._listened(level, x, whole)
        self.bytes = sum(self._shapes[one].nbytes for one in self._kept()) // len(x)
        """That the memory of an image takes."""

    def _kept(self) -> set[nn.Module]:
        return {one for before in self._before for one, kept in before.items() if kept}

    def record(self, x: Tensor, memory: Memory, level: int | None = None) -> Tensor:
        """Run a batch and store outputs; with a level, from that layer on. Stored outputs before it must be of this network."""
        known = set(self._before[level]) if level is not None else set()
        with ExitStack() as stack:
            for one in self._kept() - known:
                hook = one.register_forward_hook(lambda one, _, output: memory.__setitem__(one, output.clone()))
                stack.callback(hook.remove)
            return self.run(x, memory if level is not None else None, level or 0)

    def run(self, x: Tensor, memory: Memory | None, level: int) -> Tensor:
        """The output for a batch; with its memory, from a layer on: none before it has changed since."""
        if memory is None:
            return self.module(x)
        given = {}
        for one, kept in self._before[level].items():
            # copies, for what follows may work in place
            given[one] = memory[one].clone() if kept else x.new_full((len(x), *self._shapes[one].shape[1:]), torch.nan)
        with _given(given):
            return self.module(x)

    def _listened(self, level: int, x: Tensor, whole: Tensor) -> None:
        """Find by gradients the modules before a level whose outputs are used later, and check the result."""
        before = self._before[level]
        leaves = {one: self._shapes[one].clone().requires_grad_() for one in before}
        if leaves:
            with torch.enable_grad(), _given({one: leaf.clone() for one, leaf in leaves.items()}):
                out = self.module(x.clone())
            if out.requires_grad:
                grads = torch.autograd.grad(out.sum(), list(leaves.values()), allow_unused=True)
                self._before[level] = {one: grad is not None for one, grad in zip(before, grads, strict=True)}
        memory = {one: self._shapes[one] for one in before}
        for doubt in (self._before[level], before, {}):
            self._before[level] = doubt
            with torch.inference_mode():
                if torch.equal(self.run(x, memory, level), whole):
                    return


def _watched(module: nn.Module, x: Tensor) -> tuple[dict[nn.Module, int], dict[nn.Module, int], dict[nn.Module, Tensor]]:
    """When each module began and ended, and what those that ran once gave, where that is one tensor of as many rows as x."""
    began: dict[nn.Module, int] = {}
    ended: dict[nn.Module, int] = {}
    outputs: dict[nn.Module, Tensor] = {}
    time = iter(range(2**62))

    def begin(one: nn.Module, inputs: Any) -> None:
        began.setdefault(one, next(time))

    def end(one: nn.Module, inputs: Any, output: Any) -> None:
        if one in ended or not (isinstance(output, Tensor) and output.is_floating_point() and output.shape[:1] == x.shape[:1]):
            outputs.pop(one, None)
        else:
            outputs[one] = output.clone()
        ended[one] = next(time)

    with ExitStack() as stack, torch.no_grad():
        for one in module.modules():
            stack.callback(one.register_forward_pre_hook(begin).remove)
            stack.callback(one.register_forward_hook(end).remove)
        module(x)
    return began, ended, outputs


def _largest(module: nn.Module, wanted: set[nn.Module]) -> Iterator[nn.Module]:
    """Of these modules of a network, those that are in no other of them."""
    if module in wanted:
        yield module
        return
    for child in module.children():
        yield from _largest(child, wanted)


@contextmanager
def _given(outputs: dict[nn.Module, Tensor]) -> Iterator[None]:
    """Modules that return given outputs instead of computing them."""
    own = {one: vars(one).get("forward") for one in outputs}
    try:
        for one, output in outputs.items():
            one.forward = lambda *inputs, output=output, **named: output
        yield
    finally:
        for one, forward in own.items():
            vars(one).pop("forward", None)
            if forward is not None:
                one.forward = forward
