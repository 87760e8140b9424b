"""The check of a data set from its yaml to the files of the run folder; the flags are in check.py."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from models.registry import load_plugins
from models.yolo import Model
from utils.checkpoint import build_model, find_weights, read_checkpoint
from utils.config import DatasetSpec
from utils.datasets.check import box_fit, copies, findings
from utils.datasets.check import class_balance as balance
from utils.datasets.check.check_options import CheckConfig
from utils.datasets.check.findings import Finding
from utils.datasets.check.inspection import ImageInspection, examine_all
from utils.datasets.check.listing import Listing, list_splits
from utils.datasets.label_files import label_path
from utils.datasets.label_store import LabelStore
from utils.datasets.prepare import ensure
from utils.errors import DataError
from utils.files import ROOT, run_folder, write_json_atomically
from utils.log import LOGGER
from utils.types import HeadGeometry

DEFAULT_MODEL = ROOT / "models" / "yolov5n.yaml"


@dataclass(frozen=True)
class Head:
    """Whose anchors and strides boxes are held against. has_anchors: False where training fits them first."""

    name: str
    geometry: HeadGeometry
    has_anchors: bool


@dataclass(frozen=True)
class Split:
    """One split: its pictures, what was seen of each, and the usable ones with their objects.

    lines: (m,) where the objects' rows stand; files: label file of each picture of the store.
    """

    name: str
    paths: list[str]
    seen: list[ImageInspection]
    store: LabelStore
    lines: np.ndarray
    files: list[str]
    count: balance.SplitCount
    fit: box_fit.BoxFit


@dataclass(frozen=True)
class Report:
    """What a check came to. folder: where it is written; content: what check.json holds."""

    folder: Path
    findings: tuple[Finding, ...]
    splits: Mapping[str, Split]
    copies: tuple[copies.Copy, ...]
    content: dict

    @property
    def clean(self) -> bool:
        """Whether there is neither a fault nor a warning."""
        levels = findings.count_levels(self.findings)
        return not levels["fault"] and not levels["warning"]


def check(config: CheckConfig) -> Report:
    """Check a data set, write the run folder and tell the result. Raises DataError where nothing can be checked."""
    load_plugins(config.plugin)
    spec, head = DatasetSpec.load(config.data), _head(config)
    if spec.generate is not None:
        ensure(spec)
    listing = list_splits(spec)
    if not listing.paths:
        why = "; ".join(f"{one.file}: {one.what}" for one in listing.findings[:2])
        raise DataError(f"{spec.file}: there is no picture to check; {why}")
    with run_folder(config.project, config.name, config.exist_ok) as folder:
        splits, seen = _examine(listing, spec, head, config)
        repeated = (
            ()
            if config.no_duplicates
            else tuple(
                copies.find_copies(listing.paths, seen, listing.real, similar=config.similar, turned=config.turned)
            )
        )
        found = findings.in_order(_all_findings(spec, head, listing, splits, repeated), config.ignore)
        report = Report(
            folder, tuple(found), splits, repeated, _content(config, spec, head, listing, splits, repeated, found)
        )
        _write(report, spec, head)
    _tell(report, spec)
    return report


def _head(config: CheckConfig) -> Head:
    """The head of --weights, of --cfg, or of the default model."""
    if config.weights:
        model, name = build_model(read_checkpoint(find_weights(config.weights))), Path(config.weights).name
    else:
        model, name = Model(config.cfg or DEFAULT_MODEL), Path(config.cfg or DEFAULT_MODEL).name
    return Head(name, model.geometry, not model.head.placeholder_anchors)


def _examine(
    listing: Listing, spec: DatasetSpec, head: Head, config: CheckConfig
) -> tuple[dict[str, Split], dict[str, ImageInspection]]:
    """Look at every listed path once, and return the splits and path -> what was seen."""
    every = list(dict.fromkeys(path for listed in listing.paths.values() for path in listed))
    seen = dict(zip(every, examine_all(every, spec.names, config.workers)))
    return {name: _split(name, listed, seen, spec, head, config) for name, listed in listing.paths.items()}, seen


def _split(
    name: str, paths: list[str], seen: Mapping[str, ImageInspection], spec: DatasetSpec, head: Head, config: CheckConfig
) -> Split:
    looked = [seen[path] for path in paths]
    usable = [(path, one) for path, one in zip(paths, looked) if one.size is not None]
    store = LabelStore.build(
        [path for path, _ in usable],
        [one.size for _, one in usable],
        [replace(one.labels, segments=()) for _, one in usable],
    )
    lines = np.concatenate([one.lines for _, one in usable] or [np.zeros(0, np.int64)])
    fit = box_fit.measure(store, head.geometry, head.has_anchors, config.imgsz, config.anchor_t, config.min_box)
    return Split(
        name,
        paths,
        looked,
        store,
        lines,
        [label_path(path) for path, _ in usable],
        balance.count(store, looked, spec.nc),
        fit,
    )


def _all_findings(
    spec: DatasetSpec, head: Head, listing: Listing, splits: Mapping[str, Split], repeated: Sequence[copies.Copy]
) -> Iterator[Finding]:
    yaml = str(spec.file or "data")
    yield from listing.findings
    yield from _seen_findings(splits, spec.nc)
    for split in splits.values():
        yield from balance.label_findings(split.name, split.count, split.seen, yaml, label_path(split.paths[0]))
        yield from box_fit.findings(
            split.name,
            split.fit,
            split.store,
            split.lines,
            split.files,
            float(head.geometry.strides.min()),
            head.name,
            yaml,
        )
    yield from balance.class_findings({name: split.count for name, split in splits.items()}, spec.names, yaml)
    for copy in repeated:
        yield from copy.findings()


def _seen_findings(splits: Mapping[str, Split], nc: int) -> Iterator[Finding]:
    """What was seen of each picture and label file, with the split."""
    hint = ""
    if balance.one_based([one for split in splits.values() for one in split.seen], nc):
        hint = "the labels seem to count classes from 1: subtract 1 from every class, in all files"
    for split in splits.values():
        for one in split.seen:
            for finding in one.findings:
                yield replace(finding, split=split.name, fix=hint if finding.kind == "class-unknown" else "")


def _content(
    config: CheckConfig,
    spec: DatasetSpec,
    head: Head,
    listing: Listing,
    splits: Mapping[str, Split],
    repeated: Sequence[copies.Copy],
    found: Sequence[Finding],
) -> dict:
    """What check.json holds: nothing of it depends on workers, time or the run folder."""
    settings = {
        name: value
        for name, value in config.as_dict().items()
        if name not in ("workers", "project", "name", "exist_ok")
    }
    names, levels = list(splits), findings.count_levels(found)
    better = box_fit.better_anchors({name: split.fit for name, split in splits.items()}, head.geometry)
    anchors = head.geometry.anchors_px.detach().cpu().numpy().round(2).tolist() if head.has_anchors else None
    again = [(copy.split, copy.partner_split) for copy in repeated] + list(listing.repeats)
    return {
        "data": str(spec.file or "data"),
        "clean": not levels["fault"] and not levels["warning"],
        "levels": levels,
        "classes": list(spec.names),
        "settings": settings,
        "head": {
            "model": head.name,
            "strides": head.geometry.strides.tolist(),
            "anchors_px": anchors,
            "better_anchors_px": better,
        },
        "splits": {name: _figures(split) for name, split in splits.items()},
        "copies": {
            "pictures": copies.matrix(again, names),
            "kinds": {
                kind: sum(one.kind == kind for one in repeated)
                for kind in ("leak-same", "leak-near", "copy-same", "copy-near")
            },
        },
        "findings": findings.summary(found),
    }


def _figures(split: Split) -> dict:
    count, sizes = split.count, split.store.sizes
    return {
        "pictures": len(split.paths),
        "usable": count.pictures,
        "without_label_file": count.missing,
        "empty_label_file": count.empty,
        "objects": int(count.objects.sum()),
        "objects_of_class": count.objects.tolist(),
        "pictures_of_class": count.holders.tolist(),
        "height_width_px": {
            "smallest": sizes.min(0).tolist(),
            "median": np.median(sizes, 0).tolist(),
            "largest": sizes.max(0).tolist(),
        }
        if len(sizes)
        else None,
        "boxes": split.fit.figures(),
    }


def _write(report: Report, spec: DatasetSpec, head: Head) -> None:
    """check.json, findings.csv, the page of plots and the sheets."""
    from utils.datasets.check.overview_page import Page, plot_page
    from utils.datasets.check.sheets import pair_sheet, sample_sheet

    write_json_atomically(report.folder / "check.json", report.content)
    findings.write_csv(report.findings, report.folder / "findings.csv")
    splits = report.splits
    plot_page(
        Page(
            title=Path(spec.file or "data").name,
            names=spec.names,
            head=head.name,
            strides=head.geometry.strides.numpy(),
            anchors=head.geometry.anchors_px.detach().cpu().numpy().reshape(-1, 2)
            if head.has_anchors
            else np.zeros((0, 2)),
            stores={name: split.store for name, split in splits.items()},
            fits={name: split.fit for name, split in splits.items()},
            copies=report.content["copies"]["pictures"],
            kinds=[(kind, entry["level"], entry["count"]) for kind, entry in report.content["findings"].items()],
            levels=report.content["levels"],
        ),
        report.folder / "check.png",
    )
    marked = _marked(report.findings)
    for name, split in splits.items():
        sample_sheet(split.store, spec.names, report.folder / f"sheet_{name}.jpg", remarks=marked)
    shown = copies.for_the_sheet(report.copies)
    if shown:
        seen = {path: one.labels for split in splits.values() for path, one in zip(split.paths, split.seen)}
        pair_sheet(
            [(copies.caption(one), (one.path, one.partner)) for one in shown],
            seen,
            spec.names,
            report.folder / "duplicates.jpg",
        )


def _marked(found: Iterable[Finding]) -> dict[str, str]:
    """Pictures that the sheets show first, with a remark: those whose boxes may sit wrong as a whole."""
    return {finding.file: "stored turned" for finding in found if finding.kind == "picture-turned"}


def _tell(report: Report, spec: DatasetSpec) -> None:
    """The console: a line a split, a line a kind of finding, and the verdict."""
    wide = max(8, *(len(name) + 1 for name in report.splits))
    LOGGER.info(
        f"\n{'split':{wide}}{'pictures':>10}{'objects':>10}{'classes':>9}{'unlabelled':>12}{'tiny boxes':>12}"
        f"{'no anchor':>11}"
    )
    for name, split in report.splits.items():
        figures = split.fit.figures()
        shares = ["-" if figures[key] is None else f"{figures[key]:.1%}" for key in ("tiny_share", "no_anchor_share")]
        LOGGER.info(
            f"{name:{wide}}{len(split.paths):10}{split.count.objects.sum():10}{(split.count.objects > 0).sum():6} /{spec.nc:2}"
            f"{split.count.missing + split.count.empty:12}{shares[0]:>12}{shares[1]:>11}"
        )
    LOGGER.info("")
    for line in findings.table(report.findings, spec.root):
        LOGGER.info(line)
    levels = findings.count_levels(report.findings)
    counts = ", ".join(f"{number} {level}{'' if number == 1 else 's'}" for level, number in levels.items())
    verdict = "Clean" if report.clean else "Findings"
    LOGGER.info(f"\n{verdict}: {counts}. Results in {report.folder}: findings.csv says file, line and what to do")
