"""The methods for frozen filters: make a bank, replace a network's kernels with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filterdb.banks import Bank
from filterdb.database.bank_verbs import BankVerbs
from filterdb.database.sql_verbs import SqlVerbs
from filterdb.errors import InvalidArgument, not_found

if TYPE_CHECKING:
    from torch import nn

    from filterdb.frozen.choices import By, Matching, Repair
    from filterdb.frozen.make_bank import KMeans
    from filterdb.frozen.plan import Plan
    from filterdb.frozen.replace import Frozen
    from filterdb.frozen.report import Report
    from filterdb.images import Images, ImageSet
    from filterdb.networks import Network

    Data = str | os.PathLike[str] | ImageSet | Images

Progress = Callable[[str, int, int], None]
Match = Literal["name", "order"]
Banks = str | Bank | Mapping[str, str | Bank | None]

LIMIT = 512
"""Default number of unlabelled images. More change little."""
BATCH_SIZE = 64


class FrozenVerbs(SqlVerbs, BankVerbs):
    """``create_bank``, ``frozen_model`` and ``freeze``."""

    def create_bank(
        self, name: str, *, classifier: str | None = None, kmeans: int | KMeans | None = None, sql: str | None = None,
        bank: str | Bank | None = None, count: int | None = None, model: str | Sequence[str] | None = None,
        size: str | int | None = None, idealise: bool | str | Sequence[str] = False, device: str | None = None,
        progress: Progress | None = None,
    ) -> Bank:  # fmt: skip
        """Make a bank out of the database and keep it; its ``made_by`` says how. Exactly one of the first four says of what.

        Args:
            name: of the bank; an imported or made one of that name is replaced.
            classifier: decode ``count`` uniform codes of this classifier (of a k-means one: all its centres).
            kmeans: so many medoids of k-means up to sign over the kernels of a size; a ``KMeans`` also says the seed, and
                whether the centres themselves are meant.
            sql: the rows of this query: a column kernel; name (or template) and label where it has them.
            bank: another bank, which ``size`` brings to another size (by its formula, else the centre crop).
            count: of codes; the paper took 10, 25, 50 and 100.
            model: of kmeans: only these models, a name, a glob, or several.
            size: of kmeans: the kernels'; of sql: where the rows do not say it and are not square; of bank: the new one.
            idealise: put the scale-space model that fits best (``filterdb.fields.fits``) in the place of each template; names
                of families allow only these.
            device: of idealise: torch's.
            progress: called with the current step, the amount done, and the total.

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
                f"A bank is made of one thing: {', '.join(ways)}; got {' and '.join(given) or 'none of them'}. Give one of them."
            )
        allowed = {"classifier": ("count",), "kmeans": ("model", "size"), "sql": ("size",), "bank": ("size",)}
        options = {"count": count, "model": model, "size": size}
        for option, value in options.items():
            if value is not None and option not in allowed[given[0]]:
                raise InvalidArgument(f"{option} has no meaning for a bank made by {given[0]}. Leave it out.")
        view = self._view()
        version = view.snapshot.version
        if classifier is not None:
            made = make_bank.uniform_codes(name, self._classes.load(classifier), count, version)
        elif kmeans is not None:
            asked = kmeans if isinstance(kmeans, make_bank.KMeans) else make_bank.KMeans(kmeans)
            made = make_bank.kmeans(view, name, asked, models=model, size=size, progress=progress)
        elif sql is not None:
            made = make_bank.selection(name, self.sql(sql).to_arrow_table(), sql, version, size)
        else:
            made = make_bank.resized(name, self._bank_of(bank), size, version)
        if idealise:
            families = None if idealise is True else [idealise] if isinstance(idealise, str) else list(idealise)
            made = make_bank.idealised(made, families, device)
        self._banks.put(made)
        return made

    def frozen_model(
        self, source: str | os.PathLike[str] | Network | nn.Module, bank: Banks = "greedy8", *,
        matching: By | Matching | None = None, repair: str | Iterable[str] | Repair | None = None, data: Data | None = None,
        train: str | Iterable[str] = ("offset",), plain: bool = False, architecture: str | None = None,
        match_keys: Match = "name", preprocessing: Mapping[str, Any] | None = None, device: str | None = None,
        progress: Progress | None = None,
    ) -> nn.Module:  # fmt: skip
        """A network whose depthwise kernels are gain * template + offset of a bank, each its closest, as ``nearest`` says.

        Its depthwise layers are ``FrozenDepthwiseConv2d``: no optimiser reaches the templates. Layers that the bank does not
        cover stay as they are.

        Args:
            source: ``timm:NAME``, a checkpoint file with its architecture (see ``filterdb.networks.load``), a network, or a
                module, which stays as it is.
            bank: a bank or its name; or several by what they are for: a kernel size, a layer's name or glob, ``""`` for all else;
                None leaves these layers.
            matching: which template for which kernel; a word is its ``match``.
            repair: what is repaired on ``data`` after that: "recalibrate", "correct", "pointwise", several of them, or a Repair.
            data: unlabelled images for "inputs" and ``repair``: a source of images, an open set, or ``Images``. 512 of them by
                default, 64 at a time.
            train: which numbers are parameters: "offset", "gain", both, or none of them (``()``).
            plain: ordinary convolutions instead, with the same kernels; all of their taps train.
            architecture: what a file is the weights of, where it does not say so: also your own code, as ``file.py:function``.
            match_keys: "order" matches the tensors of a file by their order, where names differ and all shapes agree.
            preprocessing: how images are prepared (input_size, mean, std, interpolation, crop_pct, crop_mode), where the network
                does not say so, or says otherwise; that of ``data`` goes before it.
            device: torch device; by default the GPU if there is one. The network comes back on the CPU.
            progress: called with the current step, the amount done, and the total.

        Returns:
            A module of the architecture, in eval mode; its attribute ``frozen_report`` says what was replaced.

        Raises:
            SourceError, NotFound, InvalidArgument, DataError: what cannot be loaded, replaced or repaired, in one line.
        """
        from filterdb.frozen.swap import freeze_layers
        from filterdb.networks.network import unwrapped

        trained = {train} if isinstance(train, str) else set(train)
        if unknown := sorted(trained - {"offset", "gain"}):
            raise not_found("number that can be trained", unknown[0], ("offset", "gain"))
        network = self._load(source, architecture, data, match_keys, preprocessing)
        made = self._replaced(network, bank, matching, repair, data, device, progress)
        module = made.module
        if not plain:
            frozen = freeze_layers(
                unwrapped(module), made.parts, train_gain="gain" in trained, train_offset="offset" in trained
            )  # fmt: skip
            module = frozen if module is unwrapped(module) else module
        module.frozen_report = made.report  # type: ignore[assignment]
        return module

    def freeze(
        self, source: str | os.PathLike[str] | Network | nn.Module, out: str | os.PathLike[str], bank: Banks = "greedy8", *,
        matching: By | Matching | None = None, repair: str | Iterable[str] | Repair | None = None, data: Data | None = None,
        architecture: str | None = None, match_keys: Match = "name", preprocessing: Mapping[str, Any] | None = None,
        device: str | None = None, progress: Progress | None = None,
    ) -> Report:  # fmt: skip
        """Write a network whose depthwise kernels are gain * template + offset of a bank.

        A checkpoint file (.safetensors, .pth, .onnx) keeps its format, and its architecture may be unknown: only the
        depthwise kernels change, everything else is written as it is, bit for bit. Where images are looked at, and for
        ``timm:NAME`` and modules, the network is built, and a safetensors file is written that timm loads. Like everything that
        ``filterdb.networks.save`` writes, it says how its images are prepared. What code built, such as a module of your own,
        is evaluated again with that code: ``db.evaluate(out, data, architecture="file.py:function")``.

        Args:
            source: as for ``frozen_model``, or any checkpoint file that can be ingested.
            out: the file to write; it is there whole or not at all.
            bank, matching, repair, data, architecture, match_keys, device, progress: as for ``frozen_model``.
            preprocessing: as for ``frozen_model``; it is written into the file, if that is no .pth, which has no room for it.

        Returns:
            Layer by layer and in all: kernels, replaced, kept, unique kernels before and after, energy kept; the notes.

        Raises:
            SourceError, NotFound, InvalidArgument, DataError: what cannot be read, replaced or repaired, in one line.
            StoreError: the file cannot be written.
        """
        from dataclasses import replace

        from filterdb.frozen.choices import Matching, Repair
        from filterdb.frozen.files import check_out, freeze_file, options_of, words_of

        how = Matching.of(matching)
        path = Path(os.fspath(source)).expanduser() if isinstance(source, str | os.PathLike) else None
        if path is not None and path.is_file() and how.match == "weights" and not Repair.of(repair):
            return freeze_file(
                path, out, self._plan(bank, how), options=options_of(architecture, match_keys), preprocessing=preprocessing,
                progress=progress,
            )  # fmt: skip
        from filterdb.networks import save

        check_out(path, Path(out))
        network = self._load(source, architecture, data, match_keys, preprocessing)
        made = self._replaced(network, bank, how, repair, data, device, progress)
        report = replace(made.report, source=network.source)
        written = save(replace(network, module=made.module), out, words_of(self._plan(bank, how), report))
        return replace(report, written=str(written))

    # -- parts of these --------------------------------------------------------------------------------------------------

    def _bank_of(self, bank: str | Bank | None) -> Bank:
        assert bank is not None
        return self.bank(bank) if isinstance(bank, str) else bank

    def _plan(self, bank: Banks, matching: Matching) -> Plan:
        from filterdb.frozen.plan import Plan

        if isinstance(bank, Mapping):
            banks: Bank | Mapping[str, Bank | None] = {
                key: None if one is None else self._bank_of(one) for key, one in bank.items()
            }
        else:
            banks = self._bank_of(bank)
        return Plan.of(
            banks, layers=matching.layers, resize=matching.resize, signed=matching.signed, mix=matching.mix  # type: ignore[arg-type]
        )  # fmt: skip

    def _load(
        self, source: str | os.PathLike[str] | Network | nn.Module, architecture: str | None, data: Data | None,
        match_keys: Match, preprocessing: Mapping[str, Any] | None,
    ) -> Network:  # fmt: skip
        from filterdb.database.run_verbs import network_of
        from filterdb.images import Images

        of_images = None if data is None else Images.of(data).preprocessing
        said = {**(preprocessing or {}), **(of_images or {})} or None
        return network_of(source, architecture, said, match_keys, images=data is not None)

    def _replaced(
        self, network: Network, bank: Banks, matching: By | Matching | None, repair: str | Iterable[str] | Repair | None,
        data: Data | None, device: str | None, progress: Progress | None,
    ) -> Frozen:  # fmt: skip
        """The steps, on the device where that is worth it."""
        from dataclasses import replace

        import torch

        from filterdb.frozen.choices import Matching, Repair
        from filterdb.frozen.steps import frozen
        from filterdb.networks.statistics import check

        how, mend = Matching.of(matching), Repair.of(repair)
        plan, looks = self._plan(bank, how), how.match == "inputs" or bool(mend)
        if looks and data is None:
            raise InvalidArgument("Images are needed to match by inputs and to repair. Name some with data.")
        if not looks and data is not None:
            raise InvalidArgument("The images of data are not used: ask for a repair, or leave data out.")
        wanted = device or ("cuda" if torch.cuda.is_available() and looks else "cpu")
        where = next((parameter.device for parameter in network.module.parameters()), torch.device("cpu"))
        batches = [] if data is None else _batches(data, network.preprocessing, wanted, progress)
        module = network.module.to(wanted)
        try:
            warning = check(network, batches)
            made = frozen(module, plan, match=how.match, repair=mend, batches=batches, progress=progress)
        finally:
            module.to(where)
        made.module.to(where).eval()
        if warning is not None:
            made = replace(made, report=replace(made.report, notes=(*made.report.notes, warning)))
        return made


def _batches(data: Data, preprocessing: Mapping[str, Any], device: str, progress: Progress | None) -> list[Any]:
    """All unlabelled images that are meant, as the network takes them, in batches on the device."""
    import torch

    from filterdb.images import Images, batches

    images = Images.of(data)
    size = images.batch_size or BATCH_SIZE
    read = batches(
        images.open(LIMIT), preprocessing, batch_size=size, workers=images.workers, device=device, progress=progress
    )  # fmt: skip
    found = [x for x, _ in read]
    if len(found) > 1 and len(found[-1]) < size // 2:  # too few to normalise by: with those before them
        found[-2:] = [torch.cat(found[-2:])]
    return found
