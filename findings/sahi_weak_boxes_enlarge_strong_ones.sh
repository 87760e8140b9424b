#!/bin/sh
# sahi 0.12.8.
#
# Guess: merging the predictions of overlapping slices by default (GREEDYNMM, intersection over the smaller box above 0.5)
#   lets the strongest box of an object stand; what is weaker is dropped, so its score cannot matter much to the result.
# Behaviour: a weaker box that lies inside a stronger one, or holds it, is joined to it: the strong box grows to hold both,
#   and keeps its own score. A box of confidence 0.001 so turns one of 0.9 into a box of its own size, and the confidence
#   does not show it. At the thresholds that average precision is measured at, nearly every object is enlarged by noise;
#   NMS with the same threshold leaves it as it was. A comparison of sliced inference has to state the merging and the
#   least confidence, or to use NMS.
# Output seen:
#   GREEDYNMM [0, 0, 90, 90] 0.9
#   NMM [0, 0, 90, 90] 0.9
#   NMS [40, 40, 60, 60] 0.9
#   share of the merged box that is the object: 0.049
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q sahi==0.12.8
cat > "$folder/run.py" <<'PY'
from sahi.postprocess.combine import GreedyNMMPostprocess, NMMPostprocess, NMSPostprocess
from sahi.prediction import ObjectPrediction

object_box, weak_box = [40, 40, 60, 60], [0, 0, 90, 90]


def found():
    """Merging changes the predictions that it is given, so each method gets its own."""
    return [
        ObjectPrediction(bbox=box, category_id=0, category_name="thing", score=score, full_shape=[100, 100])
        for box, score in ((object_box, 0.9), (weak_box, 0.001))
    ]


merged = {}
for name, method in (("GREEDYNMM", GreedyNMMPostprocess), ("NMM", NMMPostprocess), ("NMS", NMSPostprocess)):
    (kept,) = method(match_threshold=0.5, match_metric="IOS")(found())
    merged[name] = [round(side) for side in kept.bbox.to_xyxy()]
    print(name, merged[name], round(kept.score.value, 3))
left, top, right, bottom = merged["GREEDYNMM"]
print("share of the merged box that is the object:", round(400 / ((right - left) * (bottom - top)), 3))
PY
"$folder/venv/bin/python" "$folder/run.py" | tee "$folder/seen"
cat > "$folder/expected" <<'TXT'
GREEDYNMM [0, 0, 90, 90] 0.9
NMM [0, 0, 90, 90] 0.9
NMS [40, 40, 60, 60] 0.9
share of the merged box that is the object: 0.049
TXT
diff "$folder/expected" "$folder/seen"
