"""Frozen layers against nn.Conv2d, scipy and finite differences; what must not change does not change by a bit."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from scipy.signal import correlate2d
from timm.layers import Conv2dSame
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from filterdb import Database
from filterdb.errors import InvalidArgument, NotFound
from filterdb.frozen import autograd
from filterdb.frozen.layer import FrozenDepthwiseConv2d, Parts
from filterdb.frozen.swap import fold_gain, freeze_layers, to_plain

GEOMETRIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "padded": {"padding": 1},
    "one side padded": {"padding": (0, 1)},
    "strided": {"padding": 1, "stride": 2},
    "strides that do not divide": {"padding": (1, 2), "stride": (3, 2)},
    "dilated": {"padding": 2, "dilation": 2},
    "dilated and strided": {"padding": (2, 1), "dilation": (2, 1), "stride": (1, 2)},
    "multiplier": {"out_channels": 6, "padding": 1},
    "strided multiplier": {"out_channels": 6, "padding": 1, "stride": 2},
    "even": {"kernel_size": (2, 4), "padding": (1, 2)},
    "even same": {"kernel_size": (2, 4), "padding": "same"},
    "row": {"kernel_size": (1, 5), "padding": (0, 2)},
    "column": {"kernel_size": (5, 1), "padding": (2, 0)},
    "same": {"padding": "same"},
    "same dilated": {"padding": "same", "dilation": (1, 2)},
    "valid": {"padding": "valid"},
    "more padding than kernel": {"padding": 4},
    "reflect": {"padding": 1, "padding_mode": "reflect"},
    "circular": {"padding": (1, 2), "padding_mode": "circular"},
    "replicate same": {"padding": "same", "padding_mode": "replicate", "kernel_size": (4, 3)},
}
CHANNELS = 3


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Numbers of their own, whatever was drawn before."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def parts(channels: int, size: tuple[int, int] = (3, 3), *, templates: int = 4, gain: bool = True) -> Parts:
    """Templates, each used, with random gains (of both signs) and offsets."""
    return Parts(
        normal(templates, *size, seed=1), torch.arange(channels) * 7 % templates, normal(channels, seed=2) if gain else None,
        normal(channels, seed=3),
    )  # fmt: skip


def make(
    channels: int = CHANNELS, *, gain: bool = True, dtype: torch.dtype = torch.float64, train_gain: bool = False,
    train_offset: bool = True, bias: bool = True, **geometry: Any,
) -> FrozenDepthwiseConv2d:  # fmt: skip
    """A layer of one of the geometries."""
    out, size = geometry.pop("out_channels", channels), geometry.pop("kernel_size", (3, 3))
    torch.manual_seed(4)
    return FrozenDepthwiseConv2d(
        channels, out, size, **geometry, bias=bias, parts=parts(out, size, gain=gain), train_gain=train_gain,
        train_offset=train_offset, dtype=dtype,
    )  # fmt: skip


def trainable(layer: FrozenDepthwiseConv2d) -> nn.Conv2d:
    """An nn.Conv2d built by hand, of the same geometry and with gain * template + offset as its weight."""
    conv = nn.Conv2d(
        layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.in_channels,
        layer.bias is not None, layer.padding_mode, dtype=layer.offset.dtype,
    )  # fmt: skip
    with torch.no_grad():
        gain = 1 if layer.gain is None else layer.gain
        conv.weight.copy_(gain * layer.templates[layer.index][:, None] + layer.offset)
        if conv.bias is not None:
            conv.bias.copy_(layer.bias)
    return conv


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_it_computes_what_conv2d_computes(geometry: dict[str, Any]) -> None:
    layer = make(**geometry)
    conv, x = trainable(layer), normal(2, CHANNELS, 8, 9)
    torch.testing.assert_close(layer(x), conv(x), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(layer(x[0]), conv(x[0]), rtol=1e-13, atol=1e-13)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), conv(x), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(layer.to_conv()(x), layer(x), rtol=1e-13, atol=1e-13)
    for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"):
        assert getattr(layer, name) == getattr(conv, name), name
    assert torch.equal(layer.weight, conv.weight)


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 3])
def test_scipy_agrees(stride: int, dilation: int) -> None:
    layer = make(padding=2, stride=stride, dilation=dilation)
    x = normal(1, CHANNELS, 11, 10)
    image = np.pad(x[0].numpy(), ((0, 0), (2, 2), (2, 2)))
    for channel, answer in enumerate(layer(x)[0].detach().numpy()):
        gain, offset = layer.gain[channel].item(), layer.offset[channel].item()
        taps = gain * layer.templates[layer.index[channel]].numpy() + offset
        spread = np.zeros((2 * dilation + 1, 2 * dilation + 1))
        spread[::dilation, ::dilation] = taps
        expected = correlate2d(image[channel], spread, "valid")[::stride, ::stride] + layer.bias[channel].item()
        np.testing.assert_allclose(answer, expected, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2, (3, 2)])
@pytest.mark.parametrize("size", [3, (2, 5), 7])
def test_same_is_that_of_timm_at_every_size(size: Any, stride: Any) -> None:
    conv = Conv2dSame(CHANNELS, CHANNELS, size, stride, groups=CHANNELS).double()
    layer = FrozenDepthwiseConv2d.from_conv(conv, Parts(conv.weight[:, 0], range(CHANNELS)))
    assert layer.padding == "same"
    back = layer.to_conv()
    assert isinstance(back, Conv2dSame) == (layer.stride != (1, 1))
    for rows, columns in itertools.product((5, 8, 9), (7, 10)):
        x = normal(2, CHANNELS, rows, columns)
        torch.testing.assert_close(layer(x), conv(x), rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(back(x), conv(x), rtol=1e-13, atol=1e-13)


def as_function(layer: FrozenDepthwiseConv2d) -> tuple[Any, list[Tensor]]:
    """The layer as a function of its trained numbers, and these."""
    names = [name for name, _ in layer.named_parameters()]
    values = [value.detach().clone().requires_grad_() for value in layer.parameters()]
    return lambda x, *given: torch.func.functional_call(layer, dict(zip(names, given, strict=True)), (x,)), values


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("mode", ["offset", "gain", "frozen gain", "both", "none"])
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_gradients_are_those_of_finite_differences(geometry: dict[str, Any], mode: str, bias: bool) -> None:
    layer = make(
        **geometry, bias=bias, gain=mode != "offset", train_gain=mode in ("gain", "both"),
        train_offset=mode in ("offset", "frozen gain", "both"),
    )  # fmt: skip
    run, values = as_function(layer)
    x = normal(1, CHANNELS, 5, 6).requires_grad_()
    # fast mode projects on random directions: a wrong gradient is seen as surely, in a tenth of the time
    assert torch.autograd.gradcheck(run, (x, *values), fast_mode=True)
    if values:
        assert torch.autograd.gradcheck(lambda *given: run(x.detach(), *given), values, fast_mode=True)


@pytest.mark.parametrize("name", ["padded", "strides that do not divide", "strided multiplier", "dilated", "same"])
def test_gradients_in_full_and_twice(name: str) -> None:
    run, values = as_function(make(**GEOMETRIES[name], train_gain=True))
    x = normal(2, CHANNELS, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(run, (x, *values))
    assert torch.autograd.gradgradcheck(run, (x, *values))


LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


@pytest.mark.parametrize("g_layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("part", [1, 2**30], ids=["image by image", "at once"])
def test_gradients_are_sums_of_the_taps_gradients(
    monkeypatch: pytest.MonkeyPatch, part: int, layout: torch.memory_format, g_layout: torch.memory_format
) -> None:
    monkeypatch.setattr(autograd, "CPU_PART", part)
    layer = make(8, kernel_size=(7, 7), padding=3, train_gain=True, dtype=torch.float32).to(memory_format=layout)
    conv = trainable(layer).to(memory_format=layout)
    inputs = [normal(5, 8, 14, 12, dtype=torch.float32).contiguous(memory_format=layout).requires_grad_() for _ in range(2)]
    outputs = [layer(inputs[0]), conv(inputs[1])]
    assert torch.equal(*outputs)
    assert outputs[0].is_contiguous(memory_format=layout)
    g = normal(5, 8, 14, 12, seed=9, dtype=torch.float32).contiguous(memory_format=g_layout)
    for output in outputs:
        output.backward(g)
    if layout is g_layout:
        assert inputs[0].grad.is_contiguous(memory_format=layout)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-4, atol=1e-4)
    taps = conv.weight.grad
    own = (taps * layer.templates[layer.index][:, None]).sum((2, 3), keepdim=True)
    torch.testing.assert_close(layer.gain.grad, own, rtol=1e-4, atol=2e-3)
    torch.testing.assert_close(layer.offset.grad, taps.sum((2, 3), keepdim=True), rtol=1e-4, atol=2e-3)
    torch.testing.assert_close(layer.bias.grad, conv.bias.grad, rtol=1e-4, atol=1e-3)


class Calls(TorchDispatchMode):
    """Counts the convolutions that run, and their backwards."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "convolution" in str(function):
            self.names.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("for_x", "train_gain", "train_offset", "convolutions"),
    [(True, False, True, 2), (False, False, True, 1), (True, True, True, 3), (True, False, False, 1), (False, True, False, 1)],
)
def test_nothing_is_computed_or_kept_that_is_not_wanted(
    for_x: bool, train_gain: bool, train_offset: bool, convolutions: int
) -> None:
    layer = make(padding=1, train_gain=train_gain, train_offset=train_offset)
    x = normal(2, CHANNELS, 8, 8).requires_grad_(for_x)
    kept: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: (kept.append(tensor.shape), tensor)[1], lambda tensor: tensor):
        y = layer(x)
    assert (tuple(x.shape) in kept) == (train_gain or train_offset)
    with Calls() as calls:
        y.sum().backward()
    assert calls.names == ["aten.convolution.default"] * convolutions  # never aten.convolution_backward, the gradient of taps
    assert (x.grad is not None) == for_x


def test_only_what_is_trained_changes_and_nothing_else_by_a_bit() -> None:
    torch.manual_seed(0)
    layer = make(8, padding=1, dtype=torch.float32)
    network = nn.Sequential(layer, nn.BatchNorm2d(8), nn.GELU(), nn.Flatten(), nn.Linear(8 * 36, 3)).requires_grad_(True)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    average = ModelEmaV3(network, decay=0.9)
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.05, weight_decay=0.5)
    images, labels = normal(16, 8, 6, 6, dtype=torch.float32), torch.arange(16) % 3
    for step in range(8):
        network.train(step % 3 != 2)  # train() and eval() make no difference to the layer
        optimiser.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimiser.step()
        average.update(network)
    for state in (layer.state_dict(), average.module[0].state_dict()):
        for name in ("templates", "index", "gain"):
            assert torch.equal(state[name], before[name]), name
        for name in ("offset", "bias"):
            assert (state[name] != before[name]).all(), name
    assert {name for name, _ in layer.named_parameters()} == {"offset", "bias"}
    network.eval()
    assert torch.equal(layer(images), layer.train()(images))


def test_state_dict_round_trip() -> None:
    first = make(6, padding=1, train_gain=True)
    second = make(6, padding=1, train_gain=False, train_offset=False)  # the keys do not depend on what is trained
    assert set(first.state_dict()) == {"templates", "index", "gain", "offset", "bias"}
    assert set(make(6, gain=False, bias=False).state_dict()) == {"templates", "index", "offset"}
    with torch.no_grad():
        for value in first.state_dict().values():
            value.add_(1) if value.is_floating_point() else value.copy_(value.flip(0))
    x = normal(1, 6, 5, 5)
    assert not torch.equal(first(x), second(x))
    second.load_state_dict(first.state_dict(), strict=True)
    assert torch.equal(first(x), second(x))
    with pytest.raises(RuntimeError, match="gain"):
        make(6, gain=False).load_state_dict(first.state_dict())


def test_copies_and_pickles() -> None:
    layer = make(padding="same", stride=2, train_gain=True)
    x = normal(1, CHANNELS, 7, 6)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(file, weights_only=False)):
        assert torch.equal(other(x), layer(x))
        assert repr(other) == repr(layer)
        other.offset.data.add_(1)
        assert not torch.equal(other(x), layer(x))
    assert "templates=4, gain=True, trained=gain+offset" in repr(layer)


def test_weight_is_read_only_and_its_gradient_flows() -> None:
    layer = make()
    with pytest.raises((AttributeError, KeyError)):
        layer.weight = nn.Parameter(layer.weight.detach())
    layer.weight.sum().backward()
    assert torch.equal(layer.offset.grad, torch.full((CHANNELS, 1, 1, 1), 9.0, dtype=torch.float64))


def test_autocast_bfloat16() -> None:
    layer = make(8, kernel_size=(7, 7), padding=3, train_gain=True, dtype=torch.float32)
    conv = trainable(layer)
    x = normal(4, 8, 14, 14, dtype=torch.float32)
    g = normal(4, 8, 14, 14, seed=9, dtype=torch.float32)
    exact = layer(x)
    exact.backward(g)
    true = {name: value.grad.clone() for name, value in layer.named_parameters()}
    layer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        theirs = conv(x)
    assert y.dtype == theirs.dtype == torch.bfloat16
    assert torch.equal(y, theirs)
    y.backward(g.bfloat16())
    for name, value in layer.named_parameters():
        assert value.grad.dtype == torch.float32
        assert (value.grad - true[name]).norm() < 0.01 * true[name].norm(), name
    with torch.autocast("cpu", torch.bfloat16):  # leaves double precision alone
        torch.testing.assert_close(layer.double()(x.double()), conv.double()(x.double()), rtol=1e-5, atol=1e-5)


def test_a_backward_inside_autocast_keeps_the_precision_of_the_forward() -> None:
    layer = make(4, padding=1, dtype=torch.float32, train_gain=True)
    x = normal(2, 4, 8, 8, dtype=torch.float32).requires_grad_()
    given = [x, *layer.parameters()]
    outside = torch.autograd.grad(layer(x).square().sum(), given)
    loss = layer(x).square().sum()
    with torch.autocast("cpu", torch.bfloat16):
        inside = torch.autograd.grad(loss, given)
    assert all(torch.equal(*pair) for pair in zip(outside, inside, strict=True))


def test_low_precision_networks_and_sums_beyond_float16() -> None:
    layer = make(4, kernel_size=(7, 7), padding=3, dtype=torch.float32).bfloat16()
    x = normal(2, 4, 9, 9, dtype=torch.bfloat16).requires_grad_()
    layer(x).sum().backward()
    assert {layer.offset.grad.dtype, x.grad.dtype, layer.templates.dtype} == {torch.bfloat16}
    with pytest.raises(RuntimeError):  # as nn.Conv2d refuses it
        make(4, dtype=torch.float32)(x.float().double())
    images, g = torch.full((1, 1, 9, 9), 3000.0, dtype=torch.float16), torch.full((1, 1, 3, 3), 1e-3, dtype=torch.float16)
    box = torch.ones(1, 1, 7, 7, dtype=torch.float16)  # 49 * 3000 is infinite in float16
    assert not autograd.inner_products(images, box, g, (1, 1), (0, 0), (1, 1), 1)[0].isfinite()
    products, total = autograd.box_products(images, (7, 7), g, (1, 1), (0, 0), (1, 1), 1)
    assert products.item() == pytest.approx(49 * 3000 * 9e-3, rel=1e-3)
    assert total.item() == pytest.approx(9e-3, rel=1e-3)


def test_gradients_of_each_sample_by_vmap() -> None:
    layer = make(padding=1, train_gain=True)
    values, x = {name: value.detach() for name, value in layer.named_parameters()}, normal(4, CHANNELS, 6, 6)

    def loss(values: dict[str, Tensor], image: Tensor) -> Tensor:
        return torch.func.functional_call(layer, values, (image[None],)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(values, x)
    for i, image in enumerate(x):
        layer.zero_grad()
        layer(image[None]).square().sum().backward()
        for name, value in layer.named_parameters():
            torch.testing.assert_close(each[name][i], value.grad)


def test_many_gradients_at_once() -> None:
    layer = make(padding=1, train_gain=True)
    x = normal(1, CHANNELS, 4, 4).requires_grad_()
    given = [x, *layer.parameters()]
    y = layer(x)[0, :, 1:3, 1].reshape(-1)
    together = torch.autograd.grad(y, given, torch.eye(len(y), dtype=y.dtype), retain_graph=True, is_grads_batched=True)
    for i in range(len(y)):
        for one, many in zip(torch.autograd.grad(y[i], given, retain_graph=True), together, strict=True):
            torch.testing.assert_close(many[i], one)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_goes_through_as_in_conv2d(value: float) -> None:
    layer = make(padding=1)
    conv, x = trainable(layer), normal(2, CHANNELS, 6, 6)
    x[0, 1, 2, 3] = value
    y = layer(x)
    torch.testing.assert_close(y, conv(x), equal_nan=True)
    assert not y[0, 1, 1:4, 2:5].isfinite().any()
    y.sum().backward()
    assert layer.offset.grad.isfinite().flatten().tolist() == [True, False, True]


def test_odd_batches() -> None:
    layer = make(padding=1)
    x = torch.zeros(0, CHANNELS, 4, 4, dtype=torch.float64, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.shape == x.shape
    assert not layer.offset.grad.any()
    for x in (normal(1, 1, 4, 4), normal(1, 2 * CHANNELS, 4, 4)):
        with pytest.raises(RuntimeError, match="channels"):
            layer(x)


def test_a_new_start() -> None:
    layer = make(train_gain=True)
    layer.reset_parameters()
    assert torch.equal(layer.weight[:, 0], layer.templates[layer.index])
    assert layer.bias.abs().max() <= 1 / 3


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "size": ({"templates": np.ones((2, 5, 5))}, r"kernels are 3x3 and the templates are of shape \(2, 5, 5\)"),
    "no template": ({"templates": np.ones((0, 3, 3))}, r"\(0, 3, 3\)"),
    "index too large": ({"index": [0, 1, 4]}, "index goes from 0 to 4 and there are 4 templates"),
    "index too short": ({"index": [0, 1]}, "the template of each of 3 channels"),
    "dead with a gain": ({"index": [0, 1, -1]}, "or -1 where the gain is 0"),
    "gains": ({"gain": [1.0, 2.0]}, "gain has the shape"),
    "offsets": ({"offset": [1.0] * 4}, "offset has the shape"),
    "nan": ({"offset": [1.0, float("nan"), 0.0]}, "NaN"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_parts_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    good = parts(CHANNELS)
    given = Parts(**({"templates": good.templates, "index": good.index, "gain": good.gain, "offset": good.offset} | change))
    network = nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 3, groups=CHANNELS))
    before = network[0]
    with pytest.raises(InvalidArgument, match=message) as error:
        freeze_layers(network, {"0": given})
    assert str(error.value).startswith("0: ")
    assert "\n" not in str(error.value)
    assert network[0] is before


def test_layers_that_cannot_be_frozen() -> None:
    standardised = timm.layers.StdConv2d(4, 4, 3, groups=4)
    network = nn.ModuleDict({"std": standardised, "full": nn.Conv2d(4, 4, 3), "norm": nn.BatchNorm2d(4)})
    for name, message in (("std", "has its own forward"), ("full", "only depthwise"), ("norm", "only Conv2d")):
        with pytest.raises(InvalidArgument, match=message):
            freeze_layers(network, {name: parts(4)})
    with pytest.raises(NotFound, match='Did you mean "full"'):
        freeze_layers(network, {"fulll": parts(4)})
    with pytest.raises(InvalidArgument, match="no gain to train"):
        make(gain=False, train_gain=True)
    with pytest.raises(InvalidArgument, match="pads with zeros"):
        make(padding="same", stride=2, padding_mode="reflect")
    with pytest.raises(InvalidArgument, match="floating-point"):
        make(dtype=torch.int64)


def test_a_dead_kernel_is_its_offset() -> None:
    conv = nn.Conv2d(2, 2, 3, groups=2, bias=False)
    layer = FrozenDepthwiseConv2d.from_conv(conv, Parts(np.ones((1, 3, 3)), [-1, 0], np.float32([0, 2]), [5.0, 1.0]))
    assert layer.weight.dtype == torch.float32
    assert layer.weight[:, 0, 0, 0].tolist() == [5.0, 3.0]


def own(network: nn.Module) -> dict[str, Parts]:
    """Each depthwise layer's own kernels as its templates."""
    return {
        name: Parts(conv.weight[:, 0], range(conv.out_channels))
        for name, conv in network.named_modules()
        if isinstance(conv, nn.Conv2d) and conv.groups == conv.in_channels > 1
    }


@pytest.mark.parametrize("architecture", ["test_convnext", "tf_efficientnet_b0", "pit_ti_224"])
def test_a_network_of_its_own_kernels_is_the_same_network_and_comes_back(architecture: str) -> None:
    torch.manual_seed(0)
    network = timm.create_model(architecture, num_classes=7).eval()
    size = network.pretrained_cfg["input_size"] if architecture.startswith("pit") else (3, 64, 64)
    x, state, names = normal(2, *size, dtype=torch.float32), copy.deepcopy(network.state_dict()), list(own(network))
    assert names
    with torch.no_grad():
        logits = network(x)
        assert freeze_layers(network, own(network)) is network
        assert all(isinstance(network.get_submodule(name), FrozenDepthwiseConv2d) for name in names)
        torch.testing.assert_close(network(x), logits, rtol=1e-5, atol=1e-5)
        assert to_plain(network) is network
        torch.testing.assert_close(network(x), logits, rtol=1e-5, atol=1e-5)
    assert set(network.state_dict()) == set(state)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert not any(isinstance(module, FrozenDepthwiseConv2d) for module in network.modules())


def test_one_module_under_two_names_and_a_bare_layer() -> None:
    conv = nn.Conv2d(4, 4, 3, groups=4)
    network = nn.Sequential(conv, nn.ReLU(), nn.Sequential(conv))
    freeze_layers(network, {"0": parts(4)})
    assert network[0] is network[2][0]
    to_plain(network)
    assert network[0] is network[2][0]
    assert type(network[0]) is nn.Conv2d
    assert isinstance(freeze_layers(conv, {"": parts(4)}), FrozenDepthwiseConv2d)


def test_ingest_sees_the_effective_kernels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(*(nn.Conv2d(8, 8, 7, padding=3, groups=8) for _ in range(5)), Conv2dSame(8, 16, 3, 2, groups=8))
    freeze_layers(network, {str(i): parts(8, (7, 7)) for i in range(4)} | {"5": parts(16)})
    plain = to_plain(copy.deepcopy(network))
    db = Database(tmp_path / "filters")
    db.ingest(network, name="frozen")
    db.ingest(plain, name="plain")
    for table, columns in (("filters", "layer, channel, kernel, size"), ("layers", "layer, depth, stride, padding, kind")):
        found = [
            db.sql(f"SELECT {columns} FROM {table} WHERE model = '{name}' ORDER BY ALL").fetchall()
            for name in ("frozen", "plain")
        ]
        assert found[0] == found[1]
        assert len(found[0]) == (6 if table == "layers" else 5 * 8 + 16)


@pytest.mark.parametrize("following", ["linear", "pointwise", "norm"])
def test_a_gain_moves_into_what_follows(following: str) -> None:
    layer = make(8, padding=1, train_gain=True)
    after: Any = {"linear": nn.Linear(8, 5), "pointwise": nn.Conv2d(8, 5, 1), "norm": nn.BatchNorm2d(8)}[following].double()
    if following == "norm":
        after(normal(16, 8, 6, 6, seed=7))
        after.eval()
        with torch.no_grad():
            after.weight.copy_(normal(8, seed=8))

    def run(x: Tensor) -> Tensor:
        y = layer(x)
        return after(y.permute(0, 2, 3, 1) if following == "linear" else y)

    x = normal(2, 8, 6, 6)
    expected, gain = run(x), layer.gain.detach().flatten()
    statistics = [after.running_mean / gain, after.running_var / gain**2] if following == "norm" else []
    fold_gain(layer, after)
    torch.testing.assert_close(run(x), expected)
    if statistics:
        torch.testing.assert_close([after.running_mean, after.running_var], statistics)
    assert layer.gain is None
    assert "gain" not in layer.state_dict()
    fold_gain(layer, after)  # there is none left
    torch.testing.assert_close(run(x), expected)


def test_a_gain_moves_in_a_real_network() -> None:
    torch.manual_seed(0)
    network = timm.create_model("convformer_s18", num_classes=3).double().eval()
    names = list(own(network))
    freeze_layers(network, {name: parts(network.get_submodule(name).out_channels, (7, 7)) for name in names})
    x = normal(1, 3, 64, 64)
    with torch.no_grad():
        expected = network(x)
        for name in names:
            block = network.get_submodule(name.rpartition(".")[0])
            assert isinstance(block.act2, nn.Identity)
            fold_gain(block.dwconv, block.pwconv2)
        torch.testing.assert_close(network(x), expected)


def test_a_gain_that_cannot_move() -> None:
    layer = make(4)
    for after in (nn.Linear(5, 3), nn.Conv2d(4, 4, 1, groups=4), nn.BatchNorm2d(4, affine=False), nn.ReLU()):
        with pytest.raises(InvalidArgument, match="4 channels"):
            fold_gain(layer, after)  # type: ignore[arg-type]
    layer.gain[2] = 0
    with pytest.raises(InvalidArgument, match="1 of 4 gains are 0"):
        fold_gain(layer, nn.Linear(4, 3))
    assert layer.gain is not None


def small_network() -> nn.Module:
    """A plain and a strided "same" layer, in single precision."""
    first = make(4, kernel_size=(7, 7), padding=3, dtype=torch.float32, train_gain=True)
    return nn.Sequential(first, nn.GELU(), make(4, kernel_size=(5, 5), padding="same", stride=2, dtype=torch.float32))


@pytest.mark.filterwarnings("ignore")
def test_onnx_has_one_ordinary_convolution_for_each_layer() -> None:
    onnx = pytest.importorskip("onnx")
    network, x, file = small_network().eval(), normal(1, 4, 12, 12, dtype=torch.float32), io.BytesIO()
    torch.onnx.export(network, (x,), file, dynamo=False, opset_version=17)
    model = onnx.load_from_string(file.getvalue())
    kernels = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convs) == 2
    for node, layer in zip(convs, (network[0], network[2]), strict=True):
        np.testing.assert_allclose(kernels[node.input[1]], layer.weight.detach().numpy(), rtol=1e-6, atol=1e-6)
    from onnx.reference import ReferenceEvaluator

    (y,) = ReferenceEvaluator(model).run(None, {model.graph.input[0].name: x.numpy()})
    np.testing.assert_allclose(y, network(x).detach().numpy(), rtol=1e-4, atol=1e-4)


def test_torch_export() -> None:
    network, x = small_network().eval(), normal(2, 4, 12, 12, dtype=torch.float32)
    program = torch.export.export(network, (x,))
    torch.testing.assert_close(program.module()(x), network(x))


@pytest.mark.slow
def test_torch_compile_in_one_graph() -> None:
    network, x = small_network(), normal(2, 4, 12, 12, dtype=torch.float32).requires_grad_()
    compiled = torch.compile(copy.deepcopy(network), fullgraph=True)
    other = x.detach().clone().requires_grad_()
    for size in (2, 3):  # the second is another batch size
        y, z = network(x[:size]), compiled(other[:size])
        torch.testing.assert_close(y, z, rtol=1e-4, atol=1e-4)
        (y.square().sum() / 100).backward()
        (z.square().sum() / 100).backward()
    torch.testing.assert_close(x.grad, other.grad, rtol=1e-4, atol=1e-4)
    for mine, theirs in zip(network.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-3)


def test_parallel_training_reaches_every_trained_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.distributed.is_available():
        pytest.skip("torch without torch.distributed")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        network = small_network()
        single, x = copy.deepcopy(network), normal(2, 4, 12, 12, dtype=torch.float32)
        parallel = nn.parallel.DistributedDataParallel(network)  # complains of parameters that get no gradient
        for _ in range(2):
            parallel(x).square().sum().backward()
            single(x).square().sum().backward()
        for mine, theirs in zip(network.parameters(), single.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad)
    finally:
        torch.distributed.destroy_process_group()


def test_any_module_is_frozen_where_no_images_are_looked_at(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 7, groups=8), nn.Flatten())
    db = Database(tmp_path / "filters")
    frozen = db.frozen_model(net, "greedy8")
    assert type(frozen[1]).__name__ == "FrozenDepthwiseConv2d"
    report = db.freeze(net, tmp_path / "net.safetensors", "greedy8")
    assert report.totals()["replaced"] == 8
    db.ingest(tmp_path / "net.safetensors")
    rho = db.nearest("greedy8", model="net").df().similarity.abs()
    assert rho.min() > 0.9999
    with pytest.raises(InvalidArgument, match="how its images are prepared"):
        db.frozen_model(net, "greedy8", repair="correct", data=str(tmp_path))
