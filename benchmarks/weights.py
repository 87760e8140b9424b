"""Compare ways to transfer pretrained weights into attention variants: by key, by layer, and with an identity start.

    python benchmarks/weights.py --data bccd.yaml --weights yolov5n.pt --epochs 15 --seeds 0 1 2

Trains each placement with each kind of transfer and each seed, and prints the table of docs/weights.md: mean and
sample standard deviation of mAP. Finished runs are kept in --project and not repeated. `--part 1/2` and `--part 2/2`
divide the runs between two processes.
"""

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
TRANSFERS = {
    "by key": dict(transfer="keys"),
    "layer-aware, plain": {},
    "layer-aware, identity": dict(attention_start="identity"),
}


def cells() -> list[tuple[str, str]]:
    """Return (placement, transfer) of every row of the table; the base has one kind of transfer only."""
    return [("base", "layer-aware, plain")] + [
        (placement, transfer) for placement in list(PLACEMENTS)[1:] for transfer in TRANSFERS
    ]


def run(placement: str, transfer: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Return the figures of one training; a finished training is read from its record.

    Args:
        placement: A key of PLACEMENTS.
        transfer: A key of TRANSFERS.
        seed: Seed of the training.
        options: The command line options.

    Returns:
        The content of the record: placement, transfer, seed, mAP50, mAP50-95 and the number of transferred tensors.
    """
    name = f"{placement}-{transfer}-{seed}".replace(" ", "_").replace(",", "")
    record = Path(options.project) / f"{name}.json"
    if not record.is_file():
        result = train.run(
            cfg=str(ROOT / "models" / PLACEMENTS[placement]),
            weights=options.weights,
            data=options.data,
            imgsz=options.imgsz,
            rect_pad=options.rect_pad,
            epochs=options.epochs,
            seed=seed,
            workers=options.workers,
            cache="ram",
            project=options.project,
            name=name,
            exist_ok=True,
            **TRANSFERS[transfer],
        )
        row = result.row()
        with (result.save_dir / "transfer.csv").open() as table:
            transferred = sum(line.split(",")[0] in ("transferred", "remapped") for line in table)
        figures = {"place": placement, "way": transfer, "seed": seed}
        figures |= {"mAP50": row[2], "mAP50-95": row[3], "items": transferred}
        record.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomically(record, figures, indent=None, ensure_ascii=True)
    return json.loads(record.read_text())


def table(figures: list[dict[str, float]]) -> str:
    """Return the runs as a markdown table; the last but one column compares runs with the base of the same seed."""
    lines = [
        "| attention | weights | tensors taken | mAP50 | mAP50-95 | mAP50-95 less the base's, points | runs |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    base = {row["seed"]: row["mAP50-95"] for row in figures if row["place"] == "base"}
    for placement, transfer in cells():
        rows = [row for row in figures if (row["place"], row["way"]) == (placement, transfer)]
        if rows:
            cell = [spread([row[metric] for row in rows]) for metric in ("mAP50", "mAP50-95")]
            paired = [100 * (row["mAP50-95"] - base[row["seed"]]) for row in rows if row["seed"] in base]
            cell.append(spread(paired, 1) if placement != "base" and paired else "-")
            kind = "-" if placement == "base" else transfer
            lines.append(f"| {placement} | {kind} | {rows[0]['items']} | {' | '.join(cell)} | {len(rows)} |")
    return "\n".join(lines)


def spread(values: list[float], digits: int = 3) -> str:
    """Return the mean, and the sample standard deviation if there are two or more values.

    Args:
        values: At least one value.
        digits: Digits after the point.

    Returns:
        Text such as `0.664 ± 0.069`.
    """
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def main() -> None:
    """Run the share of this process and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rect-pad", type=float, default=0.5)
    parser.add_argument("--project", default=str(ROOT / "runs" / "weights"))
    parser.add_argument("--part", default="1/1", help="which share of the runs to do, such as 1/2")
    options = parser.parse_args()
    share, shares = map(int, options.part.split("/"))
    jobs = [(placement, transfer, seed) for seed in options.seeds for placement, transfer in cells()]
    figures = [run(*job, options) for job in jobs[share - 1 :: shares]]
    print(table(figures))


if __name__ == "__main__":
    main()
