"""The verbs of frozen filters: make a bank, replace a network's kernels by it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filterdb.banks import Bank
from filterdb.database.bank_verbs import BankVerbs
from filterdb.database.sql_verbs import SqlVerbs
from filterdb.errors import InvalidArgument

if TYPE_CHECKING:
    from torch import nn

    from filterdb.frozen.plan import Plan
    from filterdb.frozen.replace import Frozen
    from filterdb.frozen.report import Report
    from filterdb.images import ImageSet
    from filterdb.networks import Network

Progress = Callable[[str, int, int], None]
Banks = str | Bank | Mapping[str, str | Bank | None]

LIMIT = 512
"""Unlabelled images that are looked at by default; more change little."""


class FrozenVerbs(SqlVerbs, BankVerbs):
    """``create_bank``, ``frozen_model`` and ``freeze``."""

    def create_bank(
        self, name: str, *, classifier: str | None = None, kmeans: int | None = None, sql: str | None = None,
        bank: str | Bank | None = None, count: int | None = None, centres: bool = False,
        model: str | Sequence[str] | None = None, size: str | int | None = None, seed: int = 0, idealise: bool = False,
        family: str | Sequence[str] | None = None, device: str | None = None, progress: Progress | None = None,
    ) -> Bank:  # fmt: skip
        """Make a bank out of the database and keep it; its ``made_by`` says how. Exactly one of the first four says of what.

        Args:
            name: of the bank; an imported or made one of that name is replaced.
            classifier: decode ``count`` uniform codes of this classifier (of a k-means one: all its centres).
            kmeans: so many medoids of k-means up to sign over the kernels of a size; with ``centres`` the centres themselves.
            sql: the rows of this query: a column kernel; name (or template) and label where it has them.
            bank: another bank, which ``size`` brings to another size (by its formula, else the centre crop).
            count: of codes; the paper took 10, 25, 50 and 100.
            centres: see kmeans.
            model: of kmeans: only these models, a name, a glob, or several.
            size: of kmeans: the kernels'; of sql: where the rows do not say it and are not square; of bank: the new one.
            seed: of kmeans.
            idealise: put the scale-space model that fits best (``filterdb.fields.fits``) in the place of each template.
            family: of idealise: only these families.
            device: of idealise: torch's.
            progress: told how far it is.

        Raises:
            InvalidArgument: none or several ways, or options of another way.
            NotFound, BankError: no such thing, or nothing that can be a bank.
        """
        from filterdb.frozen import make_bank

        self._writable()
        ways = {"classifier": classifier, "kmeans": kmeans, "sql": sql, "bank": bank}
        given = [way for way, value in ways.items() if value is not None]
        if len(given) != 1:
            raise InvalidArgument(
                f"A bank is made of one thing: {', '.join(ways)}; got {' and '.join(given) or 'none of them'}. Say of what."
            )
        allowed = {"classifier": ("count",), "kmeans": ("centres", "model", "size"), "sql": ("size",), "bank": ("size",)}
        options = {"count": count, "centres": centres or None, "model": model, "size": size}
        for option, value in options.items():
            if value is not None and option not in allowed[given[0]]:
                raise InvalidArgument(f"{option} has no meaning for a bank made by {given[0]}. Leave it out.")
        if family is not None and not idealise:
            raise InvalidArgument("family says which scale-space models may stand in. Say idealise too, or leave it out.")
        view = self._view()
        version = view.snapshot.version
        if classifier is not None:
            made = make_bank.uniform_codes(name, self._classes.load(classifier), count, version)
        elif kmeans is not None:
            made = make_bank.kmeans(
                view, name, kmeans, models=model, size=size, seed=seed, centres=centres, progress=progress
            )  # fmt: skip
        elif sql is not None:
            made = make_bank.selection(name, self.sql(sql).to_arrow_table(), sql, version, size)
        else:
            made = make_bank.resized(name, self._bank_of(bank), size, version)
        if idealise:
            made = make_bank.idealised(made, [family] if isinstance(family, str) else family, device)
        self._banks.put(made)
        return made

    def frozen_model(
        self, source: str | os.PathLike[str] | Network | nn.Module, bank: Banks = "greedy8", *, signed: bool = False,
        layers: str | Sequence[str] | None = None, resize: str = "none", mix: float = 0.0, match: str = "weights",
        recalibrate: str | ImageSet | None = None, correct: bool = False, repair: bool = False,
        data: str | ImageSet | None = None, split: str | None = None, part: str | None = None, limit: int = LIMIT, seed: int = 0,
        batch_size: int = 64, workers: int = 0, architecture: str | None = None, device: str | None = None,
        progress: Progress | None = None,
    ) -> nn.Module:  # fmt: skip
        """A network whose depthwise kernels are gain * template + offset of a bank, each its closest, as ``nearest`` says.

        Args:
            source: ``timm:NAME``, a checkpoint file with its architecture (see ``filterdb.networks.load``), a network, or a
                module, which stays as it is.
            bank: a bank or its name; or several by what they are for: a kernel size, a layer's name or glob, ``""`` for all else;
                None leaves these layers.
            signed: only positive gains.
            layers: only these layers: names or globs.
            resize: what becomes of kernels of sizes that the bank lacks: "none" leaves them, "formula" takes the bank at their
                size by its formula, "crop" the centre crop of its templates for smaller kernels.
            mix: kernels of whose energy one template keeps less than this share become mixtures of two.
            match: templates by the "weights", exactly as ``nearest`` finds them, or by what the layers see: "inputs".
            recalibrate: re-estimate batch normalisations on these unlabelled images (a source of ``filterdb.images``, or a set).
            correct: for networks without batch normalisation: set gains and biases of the replaced layers so that the mean and
                variance of each channel stay what they are on the images.
            repair: solve the pointwise layers behind depthwise ones again on the images, which is no training; then recalibrate,
                or correct, the network.
            data: the unlabelled images for ``match``, ``correct`` and ``repair``, where ``recalibrate`` names none.
            split, part, limit, seed: which of the images; 512 at most by default.
            batch_size, workers: how they are read.
            architecture: what a file is the weights of, where it does not say so.
            device: torch's; by default the GPU where there is one. The network comes back on the CPU.
            progress: told what is being done, how much of it is done, and how much there is.

        Returns:
            An ordinary module of the architecture, in eval mode; its attribute ``frozen_report`` says what was replaced.

        Raises:
            SourceError, NotFound, InvalidArgument, DataError: what cannot be loaded, replaced or recalibrated, in one line.
        """
        network = self._load(source, architecture)
        plan = self._plan(bank, layers=layers, resize=resize, signed=signed, mix=mix)
        images = _Images(data, split, part, limit, seed, batch_size, workers)
        made = self._replaced(network, plan, match, recalibrate, correct, repair, images, device, progress)
        made.module.frozen_report = made.report  # type: ignore[assignment]
        return made.module

    def freeze(
        self, source: str | os.PathLike[str] | Network | nn.Module, out: str | os.PathLike[str], bank: Banks = "greedy8", *,
        signed: bool = False, layers: str | Sequence[str] | None = None, resize: str = "none", mix: float = 0.0,
        match: str = "weights", recalibrate: str | ImageSet | None = None, correct: bool = False, repair: bool = False,
        data: str | ImageSet | None = None, split: str | None = None, part: str | None = None, limit: int = LIMIT, seed: int = 0,
        batch_size: int = 64, workers: int = 0, architecture: str | None = None, device: str | None = None,
        progress: Progress | None = None,
    ) -> Report:  # fmt: skip
        """Write a network whose depthwise kernels are gain * template + offset of a bank.

        A checkpoint file (.safetensors, .pth, .onnx) stays one of its format, and its architecture need not be known: only the
        depthwise kernels change, everything else is written as it is, bit for bit. Where images are to be looked at, and for
        ``timm:NAME`` and modules, the network is built, and a safetensors file comes out that timm loads.

        Args:
            source: as for ``frozen_model``, or any checkpoint file that can be ingested.
            out: the file to write; it is there whole or not at all.
            bank, signed, layers, resize, mix, match, recalibrate, correct, repair, data, split, part, limit, seed,
                batch_size, workers, architecture, device, progress: as for ``frozen_model``.

        Returns:
            Layer by layer and in all: kernels, replaced, kept, unique kernels before and after, energy kept; the notes.

        Raises:
            SourceError, NotFound, InvalidArgument, DataError: what cannot be read, replaced or recalibrated, in one line.
            StoreError: the file cannot be written.
        """
        from dataclasses import replace

        from filterdb.frozen.files import check_out, freeze_file, words_of

        plan = self._plan(bank, layers=layers, resize=resize, signed=signed, mix=mix)
        path = Path(os.fspath(source)).expanduser() if isinstance(source, str | os.PathLike) else None
        looks = match != "weights" or recalibrate is not None or correct or repair
        if path is not None and path.is_file() and not looks:
            return freeze_file(path, out, plan, architecture=architecture, progress=progress)
        from filterdb.networks import save

        check_out(path, Path(out))
        network = self._load(source, architecture)
        images = _Images(data, split, part, limit, seed, batch_size, workers)
        made = self._replaced(network, plan, match, recalibrate, correct, repair, images, device, progress)
        report = replace(made.report, source=network.source)
        written = save(replace(network, module=made.module), out, words_of(plan, report))
        return replace(report, written=str(written))

    # -- parts of these --------------------------------------------------------------------------------------------------

    def _bank_of(self, bank: str | Bank | None) -> Bank:
        assert bank is not None
        return self.bank(bank) if isinstance(bank, str) else bank

    def _plan(self, bank: Banks, **choice: Any) -> Plan:
        from filterdb.frozen.plan import Plan

        if isinstance(bank, Mapping):
            banks: Bank | Mapping[str, Bank | None] = {
                key: None if one is None else self._bank_of(one) for key, one in bank.items()
            }
        else:
            banks = self._bank_of(bank)
        return Plan.of(banks, **choice)

    def _load(self, source: str | os.PathLike[str] | Network | nn.Module, architecture: str | None) -> Network:
        from filterdb.database.run_verbs import network_of

        return network_of(source, architecture, None)

    def _replaced(
        self, network: Network, plan: Plan, match: str, recalibrate: str | ImageSet | None, correct: bool, repair: bool,
        images: _Images, device: str | None, progress: Progress | None,
    ) -> Frozen:  # fmt: skip
        """The steps, on the device where that is worth it."""
        import torch

        from filterdb.frozen.steps import frozen

        looks = match != "weights" or recalibrate is not None or correct or repair
        wanted = device or ("cuda" if torch.cuda.is_available() and looks else "cpu")
        where = next((parameter.device for parameter in network.module.parameters()), torch.device("cpu"))
        batches = images.read(recalibrate, network.preprocessing, wanted, progress) if looks else []
        module = network.module.to(wanted)
        try:
            made = frozen(
                module, plan, match=match, recalibrated=recalibrate is not None, corrected=correct, repaired=repair,  # type: ignore[arg-type]
                batches=batches, progress=progress,
            )  # fmt: skip
        finally:
            module.to(where)
        made.module.to(where).eval()
        return made


class _Images:
    """The unlabelled images that were named, not yet opened."""

    def __init__(
        self, data: str | ImageSet | None, split: str | None, part: str | None, limit: int, seed: int, batch_size: int,
        workers: int,
    ):  # fmt: skip
        self.data, self.choice, self.loading = data, (split, part, limit, seed), (batch_size, workers)

    def read(
        self, recalibrate: str | ImageSet | None, preprocessing: Mapping[str, Any], device: str, progress: Progress | None
    ) -> list[Any]:
        """All of them, as the network takes them, in batches on the device."""
        from filterdb.database.run_verbs import chosen_images
        from filterdb.images import batches

        data = recalibrate if recalibrate is not None else self.data
        if data is None:
            raise InvalidArgument(
                "Images are needed to match by inputs, correct and repair. Name some with data, or recalibrate."
            )
        images, (batch_size, workers) = chosen_images(data, *self.choice), self.loading
        read = batches(images, preprocessing, batch_size=batch_size, workers=workers, device=device, progress=progress)
        found = [x for x, _ in read]
        if len(found) > 1 and len(found[-1]) < batch_size // 2:  # too few to normalise by: with those before them
            found[-2:] = [_joined(found[-2:])]
        return found


def _joined(batches: Sequence[Any]) -> Any:
    import torch

    return torch.cat(list(batches))
