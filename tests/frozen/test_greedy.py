"""Greedy search: equal to searching naively, whatever is reused; killed and resumed to the same numbers; kept, shown, refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import command
import numpy as np
import pytest
import torch
from conftest import put, random_kernels
from hypothesis import given
from hypothesis import strategies as st
from pictures import write_rows
from PIL import Image
from real import data
from torch import nn

from filterdb import Bank, Database, Images, Matching
from filterdb.errors import DataError, FilterdbError, InvalidArgument, NotFound
from filterdb.frozen import greedy
from filterdb.frozen.greedy import Energy, Greedy, Ranking, Search, State, Step, naive, search
from filterdb.frozen.plan import Plan
from filterdb.frozen.pool import of_source
from filterdb.frozen.replace import freeze
from filterdb.frozen.stages import Stages
from filterdb.frozen.trials import Inputs, OnImages
from filterdb.images import ImageSet, open_images
from filterdb.networks import Network, load
from filterdb.networks.evaluation import evaluate
from filterdb.search import nearest

here = command.here
"""The command line in this process."""
IMAGES = 20


def make_bank(count: int, seed: int = 0, size: tuple[int, int] = (7, 7), name: str = "start") -> Bank:
    return Bank(name, [f"t{i}" for i in range(count)], random_kernels(count, *size, seed=seed), made_by="drawn at random")


def without(bank: Bank, gone: set[str]) -> Bank:
    kept = [i for i, name in enumerate(bank.names) if name not in gone]
    return Bank(bank.name, [bank.names[i] for i in kept], bank.templates[kept])


class Net(nn.Module):
    """Two kernel sizes, strides, a multiplier, a dead kernel, a bias, work in place, a residual, and a module that runs twice."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float32):
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.one = nn.Sequential(nn.Conv2d(6, 12, 3, padding=1, groups=6), nn.BatchNorm2d(12), nn.ReLU6(inplace=True))
        self.two = nn.Conv2d(12, 12, 3, stride=2, padding=1, groups=12, bias=False)
        self.wide = nn.Conv2d(12, 12, 5, padding=2, groups=12)
        self.three = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.head = nn.Linear(12, 7)
        with torch.no_grad():
            for layer in (self.stem, self.one[0], self.two, self.wide, self.three, self.head):
                layer.weight.normal_()
            self.head.bias.zero_()
            self.two.weight[3] = 0.25
        self.to(dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.one(self.act(self.stem(x.to(self.head.weight.dtype))))
        y = self.act(self.two(x))
        y = (y + self.wide(y)).relu_()
        return self.head((y + self.three(y)).mean((2, 3)))


CONFIG = {"input_size": (3, 16, 16), "crop_pct": 1.0}


def network(**args: object) -> Network:
    return Network.of(Net(**args), CONFIG, name="net")


class Patterns:
    """Coarse patterns of strong colours."""

    def __len__(self) -> int:
        return IMAGES

    def read(self, i: int) -> Image.Image:
        coarse = np.random.default_rng(i).integers(0, 2, (4, 4, 3), np.uint8) * 255
        return Image.fromarray(coarse).resize((16, 16), Image.Resampling.BICUBIC)


def patterns() -> ImageSet:
    """With the class that the original network chooses, or for every fourth another."""
    x = Inputs(network(), ImageSet("patterns", Patterns(), None), batch_size=IMAGES).batches[0][0]
    choice = network().module(x).argmax(1).tolist()
    return ImageSet("patterns", Patterns(), [(c + (i % 4 == 0)) % 7 for i, c in enumerate(choice)])


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return patterns()


# -- energy --------------------------------------------------------------------------------------------------------------------


def lost(kernels: list[np.ndarray], bank: Bank, per: str, signed: bool) -> float:
    """By the definition: matched anew, and summed in float64."""
    total, energy, count = [], [], []
    for f in kernels:
        found = nearest.match(f.reshape(len(f), -1), bank, signed=signed)
        alive = ~found["dead"]
        size = ((f - f.mean((1, 2), keepdims=True)).reshape(len(f), -1).astype(np.float64) ** 2).sum(1)[alive]
        rho = np.maximum(found["similarity"], 0) if signed else found["similarity"]
        rest = (1 - rho[alive].astype(np.float64) ** 2) * size
        total.append((rest / size).sum() if per == "kernel" else rest.sum() / size.sum() if per == "layer" else rest.sum())
        energy.append(size.sum())
        count.append(alive.sum())
    return float(sum(total) / {"kernel": sum(count), "layer": len(kernels), "network": sum(energy)}[per])


@pytest.mark.parametrize("per", ["kernel", "layer", "network"])
@pytest.mark.parametrize("signed", [False, True])
def test_energy_is_that_of_trying_everything(db, per, signed):
    kernels = [s * random_kernels(n, 3, 3, seed=n) for s, n in ((1, 40), (5, 25), (0.1, 15))]
    kernels[1][4] = 0.5  # constant
    put(db, "net", {f"l{i}": k for i, k in enumerate(kernels)})
    bank = make_bank(9, seed=3, size=(3, 3))
    twice = bank.templates.copy()
    twice[7] = twice[2] * 2  # never used
    bank = Bank("b", bank.names, twice)
    found = db.greedy(models="net", bank=bank, search=Search(per=per), matching=Matching(signed=signed))
    gone: set[str] = set()
    assert found.steps[0].values["energy_kept"] == pytest.approx(1 - lost(kernels, bank, per, signed), abs=1e-6)
    for step in found.steps[1:]:
        costs = [lost(kernels, without(bank, gone | {name}), per, signed) for name in bank.names if name not in gone]
        assert 1 - step.values["energy_kept"] == pytest.approx(min(costs), abs=1e-6)
        gone.add(str(step.dropped))
        assert lost(kernels, without(bank, gone), per, signed) == pytest.approx(min(costs), abs=1e-6)
    assert len(found.steps) == len(bank)
    assert (found.order[0], found.steps[1].moved) == ("t7", 0)
    assert found.evaluations == {"made": 0, "naive": 45, "saved": 45, "stopped": 0}


@pytest.mark.parametrize("signed", [False, True])
def test_the_kernels_that_move_are_those_that_nearest_gives_another_template(signed):
    net, bank = Net(), make_bank(8, size=(3, 3))
    pool = of_source(net, Plan.of(bank, signed=signed))
    ranking, flat = Ranking.of(pool, pool.worth("kernel")), np.concatenate(pool.kernels).reshape(pool.count, -1)
    gone: set[str] = set()

    def templates() -> np.ndarray:
        left = without(bank, gone)
        found = nearest.match(flat, left, signed=signed)
        used = ~found["dead"] & (found["gain"] != 0)
        return np.array([left.names[i] if there else "" for i, there in zip(found["template"], used)])

    for name in ("t3", "t0", "t7", "t4", "t1", "t6", "t2"):
        before = templates()
        assert (np.where(ranking.used, np.array(bank.names)[ranking.best], "") == before).all()
        users = ranking.users(bank.names.index(name))
        ranking.drop(bank.names.index(name))
        gone.add(name)
        assert np.flatnonzero(before == name).tolist() == users.tolist()
        assert set(np.flatnonzero(before != templates())) <= set(users)
        assert (before != templates())[users].all()
    assert (ranking.best[ranking.used] == 5).all()


@given(st.integers(1, 12), st.integers(2, 7), st.integers(0, 2**31))
def test_a_ranking_follows_any_drops(n, m, seed):
    rng = np.random.default_rng(seed)
    scores = (rng.integers(-2, 4, (n, m)) / 3).astype(np.float32)  # with many ties
    worth = rng.random(n)
    ranking = Ranking(scores.copy(), worth)
    for gone in range(m - 1):
        t = int(rng.choice(ranking.left))
        kept = 1 - ranking.lost()
        loss = ranking.losses()[t]
        scores[:, t] = -np.inf
        ranking.drop(t)
        assert ranking.best.tolist() == scores.argmax(1).tolist()
        assert 1 - ranking.lost() == pytest.approx(worth @ np.maximum(scores.max(1), 0) ** 2)
        assert kept - loss == pytest.approx(1 - ranking.lost())
        assert len(ranking.left) == m - gone - 1
        assert ranking.counts().sum() == (scores.max(1) > 0).sum()


def test_tens_of_thousands_of_kernels_take_seconds(db):
    put(db, "net", {"l": random_kernels(30_000)})
    started = time.process_time()
    found = db.greedy(models="net", bank=make_bank(100))
    assert time.process_time() - started < 20
    assert [len(found.steps), found.kernels, found.evaluations["naive"]] == [100, 30_000, 5050]


# -- images --------------------------------------------------------------------------------------------------------------------

BETTER = {"accuracy": ("top1", "loss"), "agreement": ("agreement", "kl"), "kl": ("kl",)}


def naively(net: Network, images: ImageSet, bank: Bank, objective: str) -> tuple[list[str], list[float]]:
    """Every bank frozen into the network and evaluated anew; the order of the drops and the curve."""

    def tried(gone: set[str]) -> tuple[float, ...]:
        made = freeze(net.module, Plan.of(without(bank, gone)))
        module = Network.of(made.module, net.preprocessing)
        found = evaluate(module, images, original=None if objective == "accuracy" else net, batch_size=7).metrics()
        return tuple(round(found[name] * (1 if name in greedy.FALLING else -1), 9) for name in BETTER[objective])

    gone: set[str] = set()
    order: list[str] = []
    curve = [tried(gone)[0]]
    while len(order) < len(bank) - 1:
        pool = of_source(net.module, Plan.of(without(bank, gone)))
        used = Ranking.of(pool, pool.worth("kernel")).counts()
        left = without(bank, gone).names
        if (used == 0).any():
            name, cost = left[int(np.argmin(used))], curve[-1]
        else:
            cost, name = min(((tried(gone | {one}), one) for one in left), key=lambda pair: pair[0])
            cost = cost[0]
        order.append(name)
        gone.add(name)
        curve.append(cost)
    return order, [value if BETTER[objective][0] in greedy.FALLING else -value for value in curve]


def searched(net: Network, images: ImageSet, bank: Bank, objective: str, **options: object) -> tuple[State, OnImages]:
    """The search alone."""
    pool = of_source(net.module, Plan.of(bank))
    judge = OnImages(net, pool, objective, Inputs(net, images, batch_size=6), **options)
    state = State()
    search(Ranking.of(pool, pool.worth("kernel")), judge, state)
    return state, judge


@pytest.mark.parametrize("objective", ["accuracy", "agreement", "kl"])
def test_on_images_it_is_that_of_evaluating_everything(db, images, objective):
    net, bank = network(), make_bank(7, size=(3, 3))
    order, curve = naively(net, images, bank, objective)
    found = db.greedy(net, bank=bank, objective=objective, data=Images(images, batch_size=6))
    assert found.order == order
    assert [step.values[found.measure] for step in found.steps] == pytest.approx(curve, rel=1e-5)
    assert len({round(value, 6) for value in curve}) > 3
    original = evaluate(net, images, original=net).metrics()
    measures = {name for better in BETTER[objective] for name in (better, f"{better}_se")} & set(original)
    assert found.original == pytest.approx({name: original[name] for name in measures}, abs=1e-6)
    assert found.evaluations["made"] == naive(7, 1) == 28
    assert found.seen < 28 * IMAGES
    assert 0 < found.evaluations["stopped"] < 28


def test_the_demo_network_by_accuracy(tmp_path):
    """A real network, with a real bank, on pictures whose labels it gives itself."""
    demo = load("demo", preprocessing={"input_size": (3, 32, 32)})
    unlabelled = open_images(str(write_rows(tmp_path / "u.parquet", [*range(12)], None)))
    x = Inputs(demo, unlabelled, batch_size=12).batches[0][0]
    with torch.inference_mode():
        labels = demo.module(x).argmax(1).tolist()
    photos = open_images(str(write_rows(tmp_path / "s.parquet", [*range(12)], [*labels, 99][: len(labels)])))
    bank = Database(tmp_path / "db").bank("greedy8")
    order, curve = naively(demo, photos, bank, "accuracy")
    found = Database(tmp_path / "db").greedy(demo, bank="greedy8", objective="accuracy", data=photos)
    assert (found.order, [step.values["top1"] for step in found.steps]) == (order, pytest.approx(curve))
    assert found.original["top1"] == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_the_network_at_hand_is_always_the_frozen_one(images, dtype):
    """Also after candidates were tried and undone, and where it begins in the middle; to the rounding of rho, for a product with
    fewer templates is rounded otherwise, and where there are as many, to the bit."""
    net, bank = network(dtype=dtype), make_bank(6, size=(3, 3))
    pool = of_source(net.module, Plan.of(bank))
    ranking, state = Ranking.of(pool, pool.worth("kernel")), State()
    judge = OnImages(net, pool, "kl", Inputs(net, images, batch_size=8))

    def differ(gone: set[str]) -> float:
        expected = freeze(net.module, Plan.of(without(bank, gone))).module.state_dict()
        return max(float((expected[key] - value).abs().max()) for key, value in judge.module.state_dict().items())

    judge.begin(ranking, state)
    judge.cheapest(ranking, State(costs=[(0.0,)]), lambda: None)
    assert differ(set()) == 0
    ranking.drop(4)
    state.costs.append(judge.begin(ranking, state))
    gone = {"t4"}
    for name in ("t0", "t5", "t2", "t1"):
        judge.cheapest(ranking, state, lambda: None)
        assert differ(gone) < 1e-6
        judge.drop(ranking, bank.names.index(name))
        gone.add(name)
        assert differ(gone) < 1e-6
        ranking.drop(bank.names.index(name))
        state.costs.append((state.costs[-1][0],))
        state.now.clear()


@pytest.mark.parametrize("options", [{"remembered": 0}, {"remembered": 400_000}])
def test_what_is_remembered_changes_nothing(images, options):
    net, bank = network(), make_bank(6, size=(3, 3))
    whole, _ = searched(net, images, bank, "agreement")
    less, judge = searched(net, images, bank, "agreement", **options)
    assert (whole.dropped, whole.costs, whole.tried, whole.stopped) == (less.dropped, less.costs, less.tried, less.stopped)
    assert sum(one is None for one in judge.memory) == (4 if options["remembered"] == 0 else 2)


def test_a_lazy_search_tries_less(images):
    net, bank = network(), make_bank(8, size=(3, 3))
    exact, _ = searched(net, images, bank, "kl")
    lazy, _ = searched(net, images, bank, "kl", lazy=True)
    assert lazy.tried[0] == 8
    assert sum(lazy.tried) < sum(exact.tried) == 35
    assert sum(lazy.stopped) == 0
    assert lazy.costs[0] == exact.costs[0]
    assert lazy.costs[1] == exact.costs[1]
    assert len(lazy.dropped) == 7


def test_templates_that_nobody_uses_go_first_and_untried(images):
    net = network()
    kernels = of_source(net.module, Plan.of(make_bank(2, size=(3, 3)))).kernels
    # real kernels, which are used, and one of them again, which never is: the earlier of equals is taken
    real = np.concatenate([kernels[0][:3], kernels[2][:2], 2 * kernels[0][:1]])
    bank = Bank("b", [*"abcdef"], real)
    state, _ = searched(net, images, bank, "kl")
    assert (state.dropped[0], state.tried[0], state.moved[0], state.costs[1]) == (5, 0, 0, state.costs[0])
    assert state.tried[1:] == [5, 4, 3, 2]


# -- stages --------------------------------------------------------------------------------------------------------------------


class Odd(nn.Module):
    """Layers not in the order of their names, one that never runs, one that runs twice, an output that only works as a gate."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.last, self.first, self.never, self.twice = (nn.Conv2d(4, 4, 3, padding=1, groups=4) for _ in range(4))
        self.stem, self.side = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        side = self.side(x)
        y = self.stem(x)
        y = self.norm(self.first(y)).relu_()
        y = self.twice(self.twice(y))
        y = torch.where(side > 0, y, -y)
        return self.last(y.mul_(2)).mean((2, 3))


@pytest.mark.parametrize(("net", "layers"), [(Odd(), ["last", "first", "never", "twice"]), (Net(), ["one.0", "two", "three"])])
def test_a_run_from_a_layer_on_is_a_whole_run_to_the_bit(net, layers):
    net.eval()
    stages, x = Stages(net, layers, torch.randn(2, 3, 16, 16)), torch.randn(5, 3, 16, 16)
    assert len(stages.level) == len(layers)
    assert stages.bytes > 0
    memory: dict = {}
    with torch.inference_mode():
        assert torch.equal(stages.record(x, memory), net(x))
    for name in sorted(layers, key=lambda one: stages.level[one]):
        with torch.no_grad():
            net.get_submodule(name).weight.add_(0.5)
        with torch.inference_mode():
            expected = net(x)
            for level in range(stages.level[name] + 1):
                assert torch.equal(stages.run(x, memory, level), expected)
            assert torch.equal(stages.run(x, None, 0), expected)
            assert torch.equal(stages.record(x, memory, stages.level[name]), expected)
    assert not any("forward" in vars(one) for one in net.modules())


def test_what_came_before_is_not_run(images):
    net = Net().eval()
    stages, memory, ran = Stages(net, ["one.0", "three"], torch.randn(1, 3, 16, 16)), {}, []
    assert stages.level == {"one.0": 0, "three": 1}
    x = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        stages.record(x, memory)
        for name in ("stem", "one.0", "two", "wide", "three"):
            conv = net.get_submodule(name)
            conv.forward = lambda x, name=name, run=conv.forward: ran.append(name) or run(x)
        stages.run(x, memory, 1)
    assert ran == ["three"]


# -- kept ----------------------------------------------------------------------------------------------------------------------

CHILD = """
import sys, time
from filterdb import Database, Images
from filterdb.frozen import greedy, trials
from test_greedy import make_bank, network, patterns
greedy.KEEP_SECONDS = 0
run = trials.OnImages._run
def slow(*args):
    time.sleep(0.02)
    return run(*args)
trials.OnImages._run = slow
bank = make_bank(7, size=(3, 3))
Database(sys.argv[1]).greedy(network(), bank=bank, objective="accuracy", data=Images(patterns(), batch_size=6))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_search_goes_on_to_the_same_numbers(tmp_path, images, how, monkeypatch):
    def arguments() -> dict:
        return {"bank": make_bank(7, size=(3, 3)), "objective": "accuracy", "data": Images(images, batch_size=6)}

    whole = Database(tmp_path / "whole").greedy(network(), **arguments())
    db, path = (
        Database(tmp_path / "filters"),
        [str(Path(__file__).parent), str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])],
    )
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(db.path)], env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and child.poll() is None:
        names = db._runs.names()
        if names and len(db._runs.get(names[0])[0]["settings"]["order"]) >= 2:
            break
        time.sleep(0.02)
    child.send_signal(how)
    child.wait(30)
    child.stderr.close()
    head, _ = db._runs.get(db._runs.names()[0])
    done = len(head["settings"]["order"])
    assert 2 <= done < 6
    assert head["status"] == ("running" if how == signal.SIGKILL else "interrupted")
    tried = []
    judge = OnImages._run
    monkeypatch.setattr(OnImages, "_run", lambda self, *rest: tried.append(1) or judge(self, *rest))
    found = db.greedy(network(), **arguments())
    assert (found.run_id, found.steps, found.original) == (whole.run_id, whole.steps, whole.original)
    # once for the network at hand, then the candidates that had not been tried
    assert len(tried) <= 1 + sum(step.tried for step in whole.steps[done + 1 :])
    [(status, order)] = db.sql("SELECT status, settings->'order' FROM runs").fetchall()
    assert (status, json.loads(order)) == ("finished", whole.order)


@pytest.mark.parametrize("lazy", [False, True])
def test_an_interruption_anywhere_changes_nothing(tmp_path, images, monkeypatch, lazy):
    monkeypatch.setattr(greedy, "KEEP_SECONDS", 0)
    judge, calls = OnImages._run, iter(())

    def tripping(self: OnImages, *rest: object) -> object:
        if next(calls, None) == 0:
            raise KeyboardInterrupt
        return judge(self, *rest)

    def go(name: str) -> Greedy:
        return Database(tmp_path / name).greedy(
            network(),
            bank=make_bank(5, size=(3, 3)),
            objective="agreement",
            data=Images(images, batch_size=6),
            search=Search(lazy=lazy),
        )

    whole = go("whole")
    monkeypatch.setattr(OnImages, "_run", tripping)
    for at in (1, 4, 6, 9, 13):
        calls = iter(range(at, -1, -1))
        try:
            go(f"db{at}")
        except KeyboardInterrupt:
            calls = iter(())
        else:
            assert at >= 1 + sum(step.tried for step in whole.steps)
        assert go(f"db{at}").steps == whole.steps


def test_a_search_is_a_run(db, images, monkeypatch):
    bank = make_bank(6, size=(3, 3))
    found = db.greedy(network(), bank=bank, objective="agreement", data=Images(images, limit=16, seed=3), search=Search(stop=2))
    row = db.sql("SELECT run_id, kind, model, bank, mode, data, images, seed, status FROM runs").fetchall()
    assert row == [(found.run_id, "greedy", "net", "start", "agreement", images.name, 16, 3, "finished")]
    curve = db.sql(
        "SELECT step, value FROM metrics WHERE metric = 'agreement' AND run_id = $id ORDER BY step DESC", id=found.run_id
    ).fetchall()
    assert curve == [(step.templates, step.values["agreement"]) for step in found.steps]
    moved = db.sql("SELECT step, value::INT FROM metrics WHERE metric = 'moved' ORDER BY step DESC").fetchall()
    assert moved == [(step.templates, step.moved) for step in found.steps[1:]]
    assert db.verify().ok
    # asked again, there is nothing to do; with fewer left it goes on
    at = db._runs.version
    monkeypatch.setattr(OnImages, "begin", lambda *rest: pytest.fail("it was finished"))
    again = db.greedy(network(), bank=bank, objective="agreement", data=Images(images, limit=16, seed=3), search=Search(stop=2))
    assert (again, db._runs.version) == (found, at)
    monkeypatch.undo()
    longer = db.greedy(network(), bank=bank, objective="agreement", data=Images(images, limit=16, seed=3))
    assert (longer.run_id, longer.steps[:5], len(longer.steps)) == (found.run_id, found.steps, 6)
    # whatever the answer depends on makes another run
    others = [
        {"data": Images(images, limit=15, seed=3)}, {"data": Images(images, limit=16, seed=4)},
        {"data": Images(images, limit=16, seed=3, batch_size=5)}, {"search": Search(stop=5, lazy=True)},
        {"matching": Matching(signed=True)}, {"matching": Matching(layers="t*")}, {"objective": "kl"},
    ]  # fmt: skip
    asked = {"objective": "agreement", "data": Images(images, limit=16, seed=3), "search": Search(stop=5)}
    ids = {db.greedy(network(), bank=bank, **(asked | other)).run_id for other in others}
    ids.add(db.greedy(network(seed=1), bank=bank, **asked).run_id)
    ids.add(db.greedy(network(), bank=make_bank(6, 1, (3, 3)), **asked).run_id)
    assert len(ids | {found.run_id}) == len(others) + 3


def test_what_is_not_kept_leaves_no_trace(db, images):
    found = db.greedy(network(), bank=make_bank(3, size=(3, 3)), objective="kl", data=images, keep=False)
    assert (found.run_id, len(found.steps)) == (None, 3)
    assert not db.exists()


def test_the_last_templates_are_a_bank(db):
    put(db, "net", {"l": random_kernels(60, 3, 3)})
    start = make_bank(9, size=(3, 3))
    found = db.greedy(models="net", bank=start, search=Search(per="kernel"))
    for count in range(1, 10):
        made = found.bank(count)
        assert set(made.names) == set(start.names) - set(found.order[: 9 - count]) == set(found.survivors[:count])
        assert made.names == sorted(made.names)
        assert (made.templates == start.templates[[start.names.index(name) for name in made.names]]).all()
    assert (found.bank(4).name, found.bank(4, "mine").name) == ("start-greedy4", "mine")
    for words in (
        "greedy search by energy for 60 kernels of database:net", f"run {found.run_id}", 'left of the 9 templates of "start"',
        "drawn at random", f"energy_kept {found.steps[5].values['energy_kept']:.4f}",
    ):  # fmt: skip
        assert words in found.bank(4).made_by
    kept = db.import_bank(found.bank(4, "mine"))
    assert db.bank("mine").made_by == kept.made_by
    rho = db.nearest(bank="mine").to_arrow_table()["similarity"].to_numpy()
    assert np.mean(rho**2) == pytest.approx(found.steps[5].values["energy_kept"], abs=1e-6)
    for wrong in (0, 10, "4", True):
        with pytest.raises(InvalidArgument, match="has no bank of"):
            found.bank(wrong)
    with pytest.raises(InvalidArgument, match="from 9 templates to 5: it has no bank of 4"):
        db.greedy(models="net", bank=make_bank(9, 1, (3, 3)), search=Search(stop=5), keep=False).bank(4)


def test_kernels_are_those_of_a_file_a_network_or_the_database(db, tmp_path):
    net = Net()
    torch.save(net.state_dict(), tmp_path / "net.pth")
    db.ingest(str(tmp_path / "net.pth"))
    bank = make_bank(6, size=(3, 3))
    answers = [
        db.greedy(tmp_path / "net.pth", bank=bank), db.greedy(net, bank=bank), db.greedy(network(), bank=bank),
        db.greedy(models="net", bank=bank),
    ]  # fmt: skip
    for found in answers[1:]:
        assert (found.order, found.kernels) == (answers[0].order, 36)
        assert [step.values for step in found.steps] == [step.values for step in answers[0].steps]
    some = db.greedy(models="n*", bank=bank, matching=Matching(layers="t*"))
    assert (some.kernels, db.greedy(net, bank=bank, matching=Matching(layers=["t*", "wide"])).kernels) == (24, 24)
    # of two sizes, each by the formula of the bank
    assert db.greedy(net, bank=db.bank("dog", size=3), matching=Matching(resize="formula")).kernels == 48
    with pytest.raises(InvalidArgument, match='The template "r0c0" is constant at 3x3'):
        db.greedy(net, bank=db.bank("impulse", size=5, count=25), matching=Matching(resize="crop"))


# -- the curve -----------------------------------------------------------------------------------------------------------------


def curve(values: list[float], objective: str = "energy") -> Greedy:
    name = greedy.MEASURES[objective][0]
    steps = [
        Step(len(values) - i, f"t{i}" if i else None, {name: value}, 0, 0, 0) for i, value in enumerate(values)
    ]  # fmt: skip
    return Greedy(make_bank(len(values)), objective, "net", 0, tuple(steps))


def test_the_elbow_is_farthest_from_the_chord():
    assert curve([1.0, 0.99, 0.98, 0.9, 0.4, 0.0]).elbow == 3
    assert curve([0.0, 0.01, 0.02, 0.1, 0.6, 1.0], "kl").elbow == 3
    assert curve([1.0, 0.2, 0.1, 0.0]).elbow is None  # it only sags
    assert curve([0.5, 0.5, 0.5]).elbow is None
    assert curve([0.5, 0.6]).elbow is None
    assert curve([0.5, 0.9, 0.8, 0.7]).elbow is None  # it ends higher than it began
    assert curve([0.0, 1.0, float("inf")], "kl").elbow is None
    points = np.array([[6 - i, v] for i, v in enumerate([1.0, 0.97, 0.9, 0.8, 0.5, 0.1])])
    scaled = (points - points[-1]) / (points[0] - points[-1])
    distance = np.abs(scaled[:, 1] - scaled[:, 0]) / np.sqrt(2)  # from the line through (0, 0) and (1, 1)
    assert curve([1.0, 0.97, 0.9, 0.8, 0.5, 0.1]).elbow == points[distance.argmax(), 0]


def test_counting():
    assert [naive(50, 1), naive(8, 1), naive(8, 8), naive(25, 8)] == [1275, 36, 1, 290]
    assert naive(25, 8) == 1 + sum(range(9, 26))


# -- refusals and the command line ---------------------------------------------------------------------------------------------


def test_refusals_are_one_line_and_leave_nothing(db, images, tmp_path):
    net, bank = network(), make_bank(4, size=(3, 3))
    unlabelled = str(write_rows(tmp_path / "u.parquet", [1, 2], None))
    cases = [
        ((net,), {"objective": "acuracy"}, NotFound, 'No objective "acuracy". Did you mean "accuracy"'),
        ((net,), {"objective": "accuracy"}, InvalidArgument, "needs images: give data"),
        ((net,), {"objective": "accuracy", "data": unlabelled}, DataError, "accuracy needs labels"),
        ((net,), {"objective": "accuracy", "data": "nowhere"}, DataError, "There is no"),
        ((net,), {"data": images}, InvalidArgument, "energy looks at no images: leave data out"),
        ((net,), {"search": Search(lazy=True)}, InvalidArgument, "leave lazy out"),
        ((net,), {"bank": make_bank(1)}, InvalidArgument, "has one template"),
        ((net,), {"bank": "gredy8"}, NotFound, 'Did you mean "greedy8"'),
        ((net,), {"bank": make_bank(4)}, InvalidArgument, "the layers have 3x3, 5x5 kernels"),
        ((net,), {"matching": Matching(mix=0.5)}, InvalidArgument, "leave match and mix out"),
        ((net,), {"search": Search(per="taps")}, NotFound, "There are: kernel, layer, network"),
        ((net,), {"search": Search(stop=4)}, InvalidArgument, "1 to 3, got 4"),
        ((net,), {"search": Search(stop=0)}, InvalidArgument, "1 to 3, got 0"),
        ((net,), {"matching": Matching(layers="four")}, NotFound, 'No depthwise layer "four"'),
        ((net,), {"models": "net"}, InvalidArgument, "one of the two"),
        ((), {}, InvalidArgument, "one of the two"),
        ((), {"models": "net", "objective": "kl", "data": images}, InvalidArgument, "the database has kernels alone"),
        (("timm:convnext_*",), {}, InvalidArgument, "stands for"),
    ]  # fmt: skip
    for arguments, options, kind, message in cases:
        with pytest.raises(kind, match=message.replace("(", r"\(")) as told:
            db.greedy(*arguments, **{"bank": bank, **options})
        assert "\n" not in str(told.value)
    assert not db.exists()
    dead = Net()
    for layer in (dead.one[0], dead.two, dead.three):
        nn.init.constant_(layer.weight, 0.5)
    with pytest.raises(InvalidArgument, match=r"All kernels of .* are constant"):
        db.greedy(dead, bank=bank)


def test_labels_of_other_classes_are_refused(db, tmp_path):
    wrong = str(write_rows(tmp_path / "s.parquet", [1, 2], [0, 7]))
    with pytest.raises(FilterdbError, match="label 7"):
        db.greedy(network(), bank=make_bank(3, size=(3, 3)), objective="accuracy", data=wrong)
    assert not db.exists()


def test_more_images_than_fit_are_refused(images, monkeypatch):
    monkeypatch.setattr("filterdb.frozen.trials.MOST_BYTES", 10 * 4 * 3 * 16 * 16)
    with pytest.raises(InvalidArgument, match=r"20 images of 3x16x16 .* Take 10 of them at most"):
        Inputs(network(), images, batch_size=4)


def test_on_the_command_line(tmp_path, here):
    db, picture = tmp_path / "filters", tmp_path / "curve.png"
    text = here("greedy", "demo", "--bank", "greedy8", "--name", "few", "--picture", picture, db=db)
    found = Database(db).greedy("demo", bank="greedy8")
    assert f"elbow at {found.elbow} templates" in text
    assert "no evaluation: all 36 costs came out of one table of 864 kernels" in text
    assert f"kept as {found.run_id}" in text
    assert f"made few: {found.elbow} templates of 7x7" in text
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert len(Database(db).bank("few")) == found.elbow
    told = json.loads(here("greedy", "demo", "--bank", "greedy8", "--name", "three", "--count", "3", "--json", db=db))
    assert (told["elbow"], told["made"], len(told["steps"])) == (found.elbow, "three", 8)
    assert sorted(told["survivors"][:3]) == Database(db).bank("three").names
    photos = write_rows(tmp_path / "s.parquet", [*range(6)], [*range(6)])
    flags = ("--objective", "kl", "--data", photos, "--input-size", "32", "--stop", "6", "--picture", tmp_path / "kl.svg")
    shown = here("greedy", "demo", "--bank", "greedy8", *flags, db=db)
    assert "the network as it was: kl 0" in shown
    assert "16 evaluations where trying each template at each step takes 16: 0 saved" in shown
    for flags, message in (
        (("--count", "3"), "give it a --name"), (("--objective", "accuracy"), "give data"), (("--size", "9"), "9x9"),
    ):  # fmt: skip
        assert message in here("greedy", "demo", "--bank", "greedy8", *flags, code=1, db=db)


def test_a_curve_without_an_elbow(tmp_path, here):
    np.save(tmp_path / "two.npy", random_kernels(2))
    here("bank", "import", tmp_path / "two.npy", db=tmp_path / "filters")
    flags = ("greedy", "demo", "--bank", "two", "--picture", tmp_path / "p.png")
    assert "no elbow" in here(*flags, db=tmp_path / "filters")
    assert "Give it with --count" in here(*flags, "--name", "x", code=1, db=tmp_path / "filters")


def test_a_real_network_on_real_photographs(tmp_path):
    net = load(data() / "weights" / "mcunet-320kb-1mb_imagenet.pth", architecture="mcunet_in3")
    photos = open_images(str(data() / "images" / "imagenet-1000-sample.parquet")).limit(8)
    whole = Database(tmp_path / "db").bank("greedy8")
    bank = without(whole, set(whole.names[4:]))
    order, expected = naively(net, photos, bank, "kl")
    found = Database(tmp_path / "db").greedy(net, bank=bank, objective="kl", data=photos)
    assert found.order == order
    assert [step.values["kl"] for step in found.steps] == pytest.approx(expected, rel=1e-5)


def test_energy_of_an_objective_never_helps_to_drop():
    """The costs of a search by energy never fall."""
    pool = of_source(Net(), Plan.of(make_bank(9, size=(3, 3))))
    state = State()
    search(Ranking.of(pool, pool.worth("layer")), Energy(), state)
    assert (np.diff([cost[0] for cost in state.costs]) >= 0).all()
