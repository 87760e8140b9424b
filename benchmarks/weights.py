"""What becomes of pretrained weights behind an inserted block: by key, layer-aware, and with an identity start.

    python benchmarks/weights.py --data bccd.yaml --weights yolov5n.pt --epochs 15 --seeds 0 1 2

Trains each placement with each way of bringing the weights in, for every seed, and prints the table of docs/weights.md:
mean and sample standard deviation of mAP. Finished runs are kept in --project and not repeated; `--part 1/2` and
`--part 2/2` share the work between two processes."""

import argparse
import json
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import train  # noqa: E402
from utils.files import write_json_atomically  # noqa: E402

PLACEMENTS = {
    "base": "yolov5n.yaml",
    "CBAM before SPPF": "yolov5n_CBAM.yaml",
    "CBAM in the neck": "yolov5n_CBAM-neck.yaml",
    "EMA in the neck": "yolov5n_EMA.yaml",
}
WAYS = {
    "by key": dict(transfer="keys"),
    "layer-aware, plain": {},
    "layer-aware, identity": dict(attention_start="identity"),
}


def cells() -> list[tuple[str, str]]:
    """(placement, way) of every row of the table; the base has one way only."""
    return [("base", "layer-aware, plain")] + [(place, way) for place in list(PLACEMENTS)[1:] for way in WAYS]


def run(place: str, way: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Train once, unless it is done; return its figures."""
    name = f"{place}-{way}-{seed}".replace(" ", "_").replace(",", "")
    record = Path(options.project) / f"{name}.json"
    if not record.is_file():
        result = train.run(
            cfg=str(ROOT / "models" / PLACEMENTS[place]),
            weights=options.weights,
            data=options.data,
            imgsz=options.imgsz,
            epochs=options.epochs,
            seed=seed,
            workers=options.workers,
            cache="ram",
            project=options.project,
            name=name,
            exist_ok=True,
            **WAYS[way],
        )
        row = result.row()
        with (result.save_dir / "transfer.csv").open() as table:
            taken = sum(line.split(",")[0] in ("transferred", "remapped") for line in table)
        figures = {"place": place, "way": way, "seed": seed, "mAP50": row[2], "mAP50-95": row[3], "items": taken}
        record.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomically(record, figures, indent=None, ensure_ascii=True)
    return json.loads(record.read_text())


def table(figures: list[dict[str, float]]) -> str:
    """Return the runs as a markdown table; the last column but one compares each run with the base's of its seed."""
    lines = [
        "| attention | weights | tensors taken | mAP50 | mAP50-95 | mAP50-95 less the base's, points | runs |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    base = {row["seed"]: row["mAP50-95"] for row in figures if row["place"] == "base"}
    for place, way in cells():
        rows = [each for each in figures if (each["place"], each["way"]) == (place, way)]
        if rows:
            cell = [spread([row[metric] for row in rows]) for metric in ("mAP50", "mAP50-95")]
            paired = [100 * (row["mAP50-95"] - base[row["seed"]]) for row in rows if row["seed"] in base]
            cell.append(spread(paired, 1) if place != "base" and paired else "-")
            lines.append(
                f"| {place} | {'-' if place == 'base' else way} | {rows[0]['items']} | {' | '.join(cell)} | {len(rows)} |"
            )
    return "\n".join(lines)


def spread(values: list[float], digits: int = 3) -> str:
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--project", default=str(ROOT / "runs" / "weights"))
    parser.add_argument("--part", default="1/1", help="which of how many shares of the runs to do, such as 1/2")
    options = parser.parse_args()
    share, shares = map(int, options.part.split("/"))
    todo = [(place, way, seed) for seed in options.seeds for place, way in cells()]
    figures = [run(*each, options) for each in todo[share - 1 :: shares]]
    print(table(figures))


if __name__ == "__main__":
    main()
