"""The check of a dataset, from its yaml to the files of the run folder."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from models.registry import load_plugins
from models.yolo import Model
from utils.checkpoint import build_model, find_weights, read_checkpoint
from utils.config import DatasetSpec
from utils.config.label_reading import LabelReading
from utils.datasets.check import box_fit, class_balance, copies, findings
from utils.datasets.check.check_options import CheckConfig
from utils.datasets.check.findings import Finding
from utils.datasets.check.inspection import ImageInspection, inspect_images
from utils.datasets.check.listing import Listing, list_splits
from utils.datasets.check.row_meaning import find_meaning
from utils.datasets.label_files import label_path
from utils.datasets.label_store import LabelStore
from utils.datasets.prepare import ensure
from utils.datasets.row_reader import RowRules
from utils.errors import DataError
from utils.files import ROOT, run_folder, write_json_atomically, write_text_atomically
from utils.log import LOGGER
from utils.types import HeadGeometry

DEFAULT_MODEL = ROOT / "models" / "yolov5n.yaml"


@dataclass(frozen=True)
class ReferenceHead:
    """The head whose anchors and strides boxes are compared with.

    Attributes:
        name: The model's file.
        geometry: Anchors and strides.
        has_anchors: False if training fits them first.
    """

    name: str
    geometry: HeadGeometry
    has_anchors: bool


@dataclass(frozen=True)
class CheckedSplit:
    """One split.

    Attributes:
        name: Its name.
        paths: Its images.
        inspections: One per image.
        store: The usable images with their objects.
        lines: (m,) line of each object's row.
        files: Label file per image of the store.
        count: Its counts.
        fit: How its boxes fit the head.
    """

    name: str
    paths: list[str]
    inspections: list[ImageInspection]
    store: LabelStore
    lines: np.ndarray
    files: list[str]
    count: class_balance.SplitCount
    fit: box_fit.BoxFit


@dataclass(frozen=True)
class Report:
    """The results of a check.

    Attributes:
        folder: The run folder.
        findings: What is wrong, sorted.
        splits: The splits by name.
        copies: Images that repeat others.
        content: What check.json holds.
    """

    folder: Path
    findings: tuple[Finding, ...]
    splits: Mapping[str, CheckedSplit]
    copies: tuple[copies.Copy, ...]
    content: dict

    @property
    def clean(self) -> bool:
        """Whether there is neither a fault nor a warning."""
        levels = findings.count_levels(self.findings)
        return not levels["fault"] and not levels["warning"]


def check(config: CheckConfig) -> Report:
    """Check a dataset, write the run folder and log the result. Raises DataError if nothing can be checked."""
    load_plugins(config.plugin)
    spec = DatasetSpec.load(config.data)
    if spec.generate is not None:
        ensure(spec)
    listing = list_splits(spec)
    if not listing.paths:
        why = "; ".join(f"{one.file}: {one.what}" for one in listing.findings[:2])
        raise DataError(f"{spec.file}: there is no image to check; {why}")
    head = _head(config)
    with run_folder(config.project, config.name, config.exist_ok) as folder:
        rules, read = _row_rules(listing, spec, config)
        listing = replace(listing, findings=(*listing.findings, *read))
        splits, inspections = _inspect_splits(listing, spec, head, config, rules)
        repeated = (
            ()
            if config.no_duplicates
            else tuple(
                copies.find_copies(
                    listing.paths, inspections, listing.real, similar=config.similar, turned=config.turned
                )
            )
        )
        found = findings.sort_findings(_all_findings(spec, head, listing, splits, repeated), config.ignore)
        report = Report(
            folder, tuple(found), splits, repeated, _content(config, spec, head, listing, splits, repeated, found)
        )
        _write(report, spec, head, config.lang)
    _log_report(report, spec)
    return report


def _head(config: CheckConfig) -> ReferenceHead:
    """The head of --weights, of --cfg, or of the default model."""
    if config.weights:
        model, name = build_model(read_checkpoint(find_weights(config.weights))), Path(config.weights).name
    else:
        model, name = Model(config.cfg or DEFAULT_MODEL), Path(config.cfg or DEFAULT_MODEL).name
    return ReferenceHead(name, model.geometry, not model.head.placeholder_anchors)


def _row_rules(listing: Listing, spec: DatasetSpec, config: CheckConfig) -> tuple[RowRules, list[Finding]]:
    """How label rows are read, and what is to be reported about that."""
    rules = RowRules(spec.nc, spec.names, LabelReading.of(config.labels), spec.keypoints)
    every = list(dict.fromkeys(path for listed in listing.paths.values() for path in listed))
    rules, found = find_meaning(every, rules, config.workers)
    splits = {label_path(path): split for split, listed in listing.paths.items() for path in listed}
    return rules, [replace(finding, split=splits[finding.file]) for finding in found]


def _inspect_splits(
    listing: Listing, spec: DatasetSpec, head: ReferenceHead, config: CheckConfig, rules: RowRules
) -> tuple[dict[str, CheckedSplit], dict[str, ImageInspection]]:
    """Inspect every listed path once; return the splits and path -> its inspection."""
    every = list(dict.fromkeys(path for listed in listing.paths.values() for path in listed))
    inspections = dict(zip(every, inspect_images(every, spec.names, config.workers, rules), strict=True))
    splits = {name: _split(name, listed, inspections, spec, head, config) for name, listed in listing.paths.items()}
    return splits, inspections


def _split(
    name: str,
    paths: list[str],
    inspections: Mapping[str, ImageInspection],
    spec: DatasetSpec,
    head: ReferenceHead,
    config: CheckConfig,
) -> CheckedSplit:
    own = [inspections[path] for path in paths]
    usable = [(path, one.size, one) for path, one in zip(paths, own, strict=True) if one.size is not None]
    store = LabelStore.build(
        [path for path, _, _ in usable],
        [size for _, size, _ in usable],
        [replace(one.labels, segments=()) for _, _, one in usable],
    )
    lines = np.concatenate([one.lines for _, _, one in usable] or [np.zeros(0, np.int64)])
    fit = box_fit.measure(store, head.geometry, head.has_anchors, config.imgsz, config.anchor_t, config.min_box)
    files = [label_path(path) for path, _, _ in usable]
    return CheckedSplit(name, paths, own, store, lines, files, class_balance.count_split(store, own, spec.nc), fit)


def _all_findings(
    spec: DatasetSpec,
    head: ReferenceHead,
    listing: Listing,
    splits: Mapping[str, CheckedSplit],
    repeated: Sequence[copies.Copy],
) -> Iterator[Finding]:
    yaml = str(spec.file or "data")
    yield from listing.findings
    yield from _inspection_findings(splits, spec.nc)
    for split in splits.values():
        yield from class_balance.label_findings(
            split.name, split.count, split.inspections, yaml, label_path(split.paths[0])
        )
        yield from box_fit.box_findings(
            split.name,
            split.fit,
            split.store,
            split.lines,
            split.files,
            float(head.geometry.strides.min()),
            head.name,
            yaml,
        )
    yield from class_balance.class_findings({name: split.count for name, split in splits.items()}, spec.names, yaml)
    for copy in repeated:
        yield from copy.findings()


def _inspection_findings(splits: Mapping[str, CheckedSplit], nc: int) -> Iterator[Finding]:
    """What the inspection of each image and label file found, with the split."""
    every = [one for split in splits.values() for one in split.inspections]
    hint = class_balance.explain_unknown(every, nc)
    for split in splits.values():
        for one in split.inspections:
            for finding in one.findings:
                yield replace(finding, split=split.name, fix=hint if finding.kind == "class-unknown" else "")


def _content(
    config: CheckConfig,
    spec: DatasetSpec,
    head: ReferenceHead,
    listing: Listing,
    splits: Mapping[str, CheckedSplit],
    repeated: Sequence[copies.Copy],
    found: Sequence[Finding],
) -> dict:
    """What check.json holds: nothing of it depends on workers, time or the run folder."""
    settings = {
        name: value
        for name, value in config.as_dict().items()
        if name not in ("workers", "font", "lang", "project", "name", "exist_ok")
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
            "pictures": copies.count_repeats(again, names),
            "kinds": {
                kind: sum(one.kind == kind for one in repeated)
                for kind in ("leak-same", "leak-near", "copy-same", "copy-near")
            },
        },
        "findings": findings.summarize_findings(found),
    }


def _figures(split: CheckedSplit) -> dict:
    count, sizes = split.count, split.store.sizes
    return {
        "pictures": len(split.paths),
        "usable": count.images,
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


def _write(report: Report, spec: DatasetSpec, head: ReferenceHead, language: str) -> None:
    """check.json, findings.csv, the page of plots, the sheets, and check.html, which holds them all."""
    from utils.datasets.check.check_page import check_page
    from utils.datasets.check.overview_page import OverviewPage, plot_page
    from utils.datasets.check.sheets import pair_sheet, sample_sheet

    write_json_atomically(report.folder / "check.json", report.content)
    findings.write_csv(report.findings, report.folder / "findings.csv")
    splits = report.splits
    plot_page(
        OverviewPage(
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
    remarks = _remarks(report.findings)
    for name, split in splits.items():
        sample_sheet(split.store, spec.names, report.folder / f"sheet_{name}.jpg", remarks=remarks)
    shown = copies.most_interesting(report.copies)
    if shown:
        labels = {
            path: one.labels
            for split in splits.values()
            for path, one in zip(split.paths, split.inspections, strict=True)
        }
        pair_sheet(
            [(copies.caption(one), (one.path, one.partner)) for one in shown],
            labels,
            spec.names,
            report.folder / "duplicates.jpg",
        )
    html = check_page(report.content, report.findings, report.folder, language)
    write_text_atomically(report.folder / "check.html", html)


def _remarks(found: Iterable[Finding]) -> dict[str, str]:
    """Images that the sheets show first, with a remark: those whose boxes may all be wrong."""
    return {finding.file: "EXIF-rotated" for finding in found if finding.kind == "picture-turned"}


def _log_report(report: Report, spec: DatasetSpec) -> None:
    """Log one line per split, one line per kind of finding, and the verdict."""
    wide = max(8, *(len(name) + 1 for name in report.splits))
    LOGGER.info(
        f"\n{'split':{wide}}{'images':>10}{'objects':>10}{'classes':>9}{'unlabeled':>12}{'tiny boxes':>12}"
        f"{'no anchor':>11}"
    )
    for name, split in report.splits.items():
        figures = split.fit.figures()
        shares = ["-" if figures[key] is None else f"{figures[key]:.1%}" for key in ("tiny_share", "no_anchor_share")]
        LOGGER.info(
            f"{name:{wide}}{len(split.paths):10}{split.count.objects.sum():10}"
            f"{(split.count.objects > 0).sum():6} /{spec.nc:2}"
            f"{split.count.missing + split.count.empty:12}{shares[0]:>12}{shares[1]:>11}"
        )
    LOGGER.info("")
    for line in findings.format_table(report.findings, spec.root):
        LOGGER.info(line)
    levels = findings.count_levels(report.findings)
    counts = ", ".join(f"{count} {level}{'' if count == 1 else 's'}" for level, count in levels.items())
    verdict = "Clean" if report.clean else "Findings"
    LOGGER.info(f"\n{verdict}: {counts}. Results in {report.folder}: findings.csv has file, line and what to do")
