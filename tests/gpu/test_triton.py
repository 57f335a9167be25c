"""The candidate kernel in Triton's interpreter on the CPU, against the autograd function in float64."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("triton")

CODE = """
import torch
from filterdb.frozen.autograd import FrozenConvolution
from tests.gpu.triton_backward import TritonConvolution, TILES

def answers(function, x, g, template, gain, offset, bias, *rest):
    x, offset, bias = (one.detach().clone().requires_grad_() for one in (x, offset, bias))
    gain = gain if gain is None else gain.detach().clone().requires_grad_()
    y = function(x, template, gain, offset, bias, *rest)
    y.backward(g)
    return [y.detach(), x.grad, offset.grad, bias.grad] + ([] if gain is None else [gain.grad])

torch.manual_seed(0)
count = 0
for form in (torch.contiguous_format, torch.channels_last):
    for taps, padding, with_gain in ((7, 3, True), (3, 0, True), (3, 1, False)):
        x = torch.randn(2, 3, 6, 7).contiguous(memory_format=form)
        template, offset, bias = torch.randn(3, 1, taps, taps), torch.randn(3, 1, 1, 1), torch.randn(3)
        gain = torch.randn(3, 1, 1, 1) if with_gain else None
        size = [2, 3, 6 + 2 * padding - taps + 1, 7 + 2 * padding - taps + 1]
        g = torch.randn(size).contiguous(memory_format=form)
        double = [None if one is None else one.double() for one in (x, g, template, gain, offset, bias)]
        exact = answers(FrozenConvolution.apply, *double, (1, 1), (padding,) * 2, (1, 1), 3)
        for tile in ((16, 2, 4), (64, 4, 4))[taps == 7 :]:  # the interpreter takes long
            found = answers(TritonConvolution.apply, x, g, template, gain, offset, bias, (padding,) * 2, tile)
            assert len(found) == len(exact)
            for one, other in zip(found, exact):
                torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)
                count += 1
print("compared", count)
"""


def test_one_pass_over_g_gives_all_gradients():
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, cwd=ROOT, env=os.environ | {"TRITON_INTERPRET": "1"}
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "compared 46"
