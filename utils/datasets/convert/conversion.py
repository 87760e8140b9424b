"""The conversion, from the files of another tool to the folder of a dataset and its report."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.config import DatasetSpec
from utils.datasets.convert.annotations import Annotations, Source, class_name
from utils.datasets.convert.coco_reader import read_coco
from utils.datasets.convert.convert_options import ConvertConfig
from utils.datasets.convert.cvat_reader import read_cvat
from utils.datasets.convert.dataset_writer import (
    DATA_YAML,
    ConvertedImage,
    new_folder,
    refuse_existing,
    used_splits,
    write_data_yaml,
    write_dataset,
)
from utils.datasets.convert.image_finder import ImageFinder
from utils.datasets.convert.label_rows import RowOptions, rows_of
from utils.datasets.convert.labelme_reader import read_labelme
from utils.datasets.convert.placed_images import PlacedImage, background_images, place_images, usable_names
from utils.datasets.convert.remarks import RemarkLog
from utils.datasets.convert.split_assignment import DEFAULT_SHARES, assign_splits, split_in_folders
from utils.datasets.convert.voc_reader import read_voc
from utils.errors import ConfigError, DataError
from utils.files import read_text, write_json_atomically, write_text_atomically
from utils.log import LOGGER

READERS = {"voc": read_voc, "coco": read_coco, "labelme": read_labelme, "cvat": read_cvat}
_MOST_LISTED = 30  # classes on the console; convert.json has all


@dataclass(frozen=True)
class ConversionReport:
    """The results of a conversion.

    Attributes:
        folder: The dataset.
        data: Its data yaml.
        content: What convert.json holds.
        remarks: What was left out or changed.
    """

    folder: Path
    data: Path
    content: dict
    remarks: RemarkLog

    @property
    def clean(self) -> bool:
        """Whether nothing faulty was left out."""
        return not self.remarks.count("fault")


def convert(config: ConvertConfig) -> ConversionReport:
    """Convert as the options say, write the folder and log the result.

    Raises DataError if nothing can be converted; then nothing is written.
    """
    output, source = Path(config.output), _source(config)
    refuse_existing(output)
    remarks = RemarkLog()
    found = READERS[config.format](Source(source, remarks, config.one_based))
    names = _class_names(config, found, remarks)
    with new_folder(output) as folder:
        root = Path(config.images) if config.images else source if source.is_dir() else source.parent
        placed = _placed(config, found, ImageFinder([root]), remarks, folder / ".embedded")
        images = _converted(config, found, placed, names, remarks, root)
        write_dataset(folder, images, config.link)
        _remove_embedded(folder / ".embedded")
        write_data_yaml(folder, output, images, names)
        report = ConversionReport(output, output / DATA_YAML, _content(config, found, images, names, remarks), remarks)
        _write_report(report, folder, images)
    _log_report(report)
    return report


def _source(config: ConvertConfig) -> Path:
    for name, path in (("source", config.source), ("--images", config.images)):
        if path and not Path(path).exists():
            raise DataError(f"{path}: no such file or folder; give the {name} that is there")
    source = Path(config.source)
    if source.suffix.lower() in (".zip", ".rar", ".7z", ".gz", ".tar"):
        raise DataError(f"{source}: is an archive; unpack it and give the folder")
    if config.images and not Path(config.images).is_dir():
        raise DataError(f"{config.images}: --images must be a folder")
    return source


def _class_names(config: ConvertConfig, found: Annotations, remarks: RemarkLog) -> tuple[str, ...]:
    """The classes in the order of their numbers: as asked for, as the source declares them, or sorted."""
    used = {one.name for image in found.images for one in image.objects}
    if config.names is not None:
        return _given_names(config.names)
    names = [*found.classes, *sorted(used - set(found.classes))]
    if not names:
        _refuse_nothing(config, remarks, "no object")
    by_letters: dict[str, str] = {}
    for name in names:
        other = by_letters.setdefault("".join(filter(str.isalnum, name.casefold())) or name, name)
        if other != name:
            remarks.add("names-alike", config.source, 0, f"{other!r} and {name!r} became two classes")
    return tuple(names)


def _given_names(given: Sequence[str]) -> tuple[str, ...]:
    names: Sequence[str] = given
    if len(given) == 1 and given[0].lower().endswith((".yaml", ".yml")):
        names = DatasetSpec.load(given[0]).names
    elif len(given) == 1 and given[0].lower().endswith(".txt"):
        if not Path(given[0]).is_file():
            raise ConfigError(f"--names {given[0]}: no such file")
        names = [line for line in read_text(given[0]).splitlines() if line.strip()]
    clean = tuple(class_name(name) for name in names)
    twice = [name for name, count in Counter(clean).items() if count > 1 or not name]
    if twice or not clean:
        raise ConfigError(f"--names: {twice[0]!r} is given twice" if twice else f"--names {given[0]}: holds no name")
    return clean


def _refuse_nothing(config: ConvertConfig, remarks: RemarkLog, what: str) -> None:
    """Raise DataError: there is nothing to convert, with the first reason that was met."""
    first = remarks.first(
        "image-missing", "image-ambiguous", "annotation-unreadable", "image-unreadable", "size-differs"
    )
    first = first or remarks.first("object-broken", "no-area", "file-skipped")
    place = f"{first.file}{f':{first.line}' if first.line else ''}: {first.what}" if first else "nothing was read"
    hint = "; name the folder of the images with --images" if first and first.kind == "image-missing" else ""
    raise DataError(f"{config.source}: {what} can be converted; first: {place}{hint}")


def _placed(
    config: ConvertConfig, found: Annotations, finder: ImageFinder, remarks: RemarkLog, embedded: Path
) -> list[PlacedImage]:
    placed = place_images(found.images, finder, remarks, embedded)
    if not placed:
        _refuse_nothing(config, remarks, "no image")
    placed += background_images(placed, finder, remarks, config.background)
    return sorted(placed, key=lambda one: one.path)


def _converted(
    config: ConvertConfig,
    found: Annotations,
    placed: Sequence[PlacedImage],
    names: Sequence[str],
    remarks: RemarkLog,
    root: Path,
) -> list[ConvertedImage]:
    """Each image with its rows, its split and its name in the result."""
    options = RowOptions({name: index for index, name in enumerate(names)}, config.boxes, config.difficult)
    splits = _splits(config, found, placed, remarks, root)
    kept = [(one, split) for one, split in zip(placed, splits, strict=True) if split]
    relative = {one.path: _relative(one.path, root) for one, _ in kept}
    texts = usable_names([one for one, _ in kept], relative)
    return [
        ConvertedImage(one.path, one.annotation, text, split, rows_of(one, options, remarks))
        for (one, split), text in zip(kept, texts, strict=True)
    ]


def _relative(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else path.name


def _splits(
    config: ConvertConfig, found: Annotations, placed: Sequence[PlacedImage], remarks: RemarkLog, root: Path
) -> list[str]:
    """The split of each image: without --split the source's own if it has train and val; "" leaves it out."""
    own = [one.split or ("" if found.listed else _split_of_folders(one, Path(config.source), root)) for one in placed]
    if config.split is None and {"train", "val"} <= set(own):
        for one, split in zip(placed, own, strict=True):
            if not split:
                remarks.add("not-listed", one.path, 0, "is in none of the source's splits")
        return own
    return assign_splits([one.digest for one in placed], config.split or DEFAULT_SHARES, config.seed)


def _split_of_folders(one: PlacedImage, source: Path, root: Path) -> str:
    """The split that a folder of the annotation below the source names, or one of the image."""
    annotation = Path(one.annotation or source)
    below = annotation.relative_to(source).parts[:-1] if source in annotation.parents else ()
    return split_in_folders(below) or split_in_folders(Path(_relative(one.path, root)).parts[:-1])


def _remove_embedded(folder: Path) -> None:
    """Remove the images that were taken out of annotation files; they were copied."""
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    if folder.is_dir():
        folder.rmdir()


def _content(
    config: ConvertConfig,
    found: Annotations,
    images: Sequence[ConvertedImage],
    names: Sequence[str],
    remarks: RemarkLog,
) -> dict:
    """What convert.json holds."""
    number = {name: index for index, name in enumerate(names)}
    return {
        "format": config.format,
        "source": config.source,
        "settings": {name: value for name, value in config.as_dict().items() if name not in ("format", "source")},
        "annotated_images": len(found.images),
        "annotated_objects": sum(len(image.objects) for image in found.images),
        "images": len(images),
        "objects": sum(len(one.rows.texts) for one in images),
        "splits": {
            split: _figures([one for one in images if one.split == split], names) for split in used_splits(images)
        },
        "classes": list(names),
        "categories": [
            {"file": file, "id": source_id, "name": name, "class": number.get(name)}
            for file, source_id, name in found.categories
        ],
        "remarks": remarks.summary(),
    }


def _figures(images: Sequence[ConvertedImage], names: Sequence[str]) -> dict:
    class_ids = [class_id for one in images for class_id in one.rows.class_ids]
    return {
        "images": len(images),
        "background": sum(not one.rows.texts for one in images),
        "objects": len(class_ids),
        "outlines": sum(one.rows.outlines for one in images),
        "objects_of_class": np.bincount(np.array(class_ids, np.int64), minlength=len(names)).tolist(),
    }


def _write_report(report: ConversionReport, folder: Path, images: Sequence[ConvertedImage]) -> None:
    """convert.json, remarks.csv, and images.csv: where each image comes from."""
    write_json_atomically(folder / "convert.json", report.content)
    report.remarks.write_csv(folder / "remarks.csv")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("image", "source", "annotation", "objects"))
    writer.writerows(
        (f"images/{one.split}/{one.file}", one.path, one.annotation, len(one.rows.texts)) for one in images
    )
    write_text_atomically(folder / "images.csv", text.getvalue())


def _log_report(report: ConversionReport) -> None:
    """Log one line per split, class and kind of remark, and what to do next."""
    content, splits = report.content, report.content["splits"]
    LOGGER.info(f"\n{'split':8}{'images':>10}{'background':>12}{'objects':>10}{'outlines':>10}")
    for split, one in splits.items():
        row = f"{one['images']:10}{one['background']:12}{one['objects']:10}{one['outlines']:10}"
        LOGGER.info(f"{split:8}{row}")
    LOGGER.info(f"\n{'class':>5}  {'id there':>8}{''.join(f'{split:>10}' for split in splits)}  name")
    ids: dict[int, str] = {one["class"]: one["id"] for one in content["categories"] if one["class"] is not None}
    for index, name in enumerate(content["classes"][:_MOST_LISTED]):
        counts = "".join(f"{one['objects_of_class'][index]:10}" for one in splits.values())
        LOGGER.info(f"{index:5}  {ids.get(index, '-'):>8}{counts}  {name}")
    if len(content["classes"]) > _MOST_LISTED:
        LOGGER.info(f"... {len(content['classes']) - _MOST_LISTED} more in convert.json")
    LOGGER.info("")
    for line in report.remarks.table():
        LOGGER.info(line)
    if not {"train", "val"} <= set(splits):
        LOGGER.warning("WARNING: train.py needs images of train and of val; --split divides the images")
    LOGGER.info(
        f"\n{content['images']} images, {content['objects']} objects in {report.folder}; remarks.csv lists what was "
        f"left out or changed.\nNext: python -m utils.datasets.check {report.data}\n"
        f"then: python train.py --data {report.data}"
    )
