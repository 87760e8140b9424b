"""The page's interface: the boxes of detect.py, batches of concurrent requests, every wrong request one line."""

import base64
import http.client
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np
import pytest
from conftest import Client, noise_image, png, running
from small_videos import write_video

from utils.config import PredictOptions
from utils.engine.heat_map_maker import HeatSource, make_heat_maps
from utils.engine.predictor import load_predictor, predict
from utils.files import ROOT
from utils.heatmaps.detection_target import TargetChoice
from utils.heatmaps.map_layers import find_layers
from utils.heatmaps.placement import normalized, on_image

PAGE = ROOT / "utils" / "serve" / "page"


def expected_rows(weights, image, **options):
    """What detect.py finds in an image, as (n, 6) xyxy, confidence, class."""
    (prediction,) = predict(load_predictor(weights, "cpu"), image, PredictOptions(**options))
    return prediction.rows().numpy()


def rows_of(result):
    keys = ("x1", "y1", "x2", "y2", "confidence", "class_id")
    return np.array([[row[key] for key in keys] for row in result["detections"]]).reshape(-1, 6)


def test_an_image_gets_the_boxes_of_detect(client, weights):
    image = noise_image()
    for name, file in (("one.pt", weights[0]), ("two.pt", weights[1])):
        status, result = client.json("POST", "/v1/detect", png(image), model=name, conf=0.3, imgsz=96)
        expected = expected_rows(file, image, imgsz=96, conf_thres=0.3)
        assert status == 200 and (result["model"], result["width"], result["height"]) == (name, 128, 96)
        assert len(expected) > 3 and np.abs(rows_of(result) - expected).max() < 0.01
        assert result["detections"][0]["name"] in ("square", "disc", "star")


def test_thresholds_and_classes_are_those_of_the_request(client, weights):
    image = noise_image(1)
    _, result = client.json("POST", "/v1/detect", png(image), conf=0.2, iou=0.9, max_det=4, classes="star,0", imgsz=96)
    expected = expected_rows(weights[0], image, imgsz=96, conf_thres=0.2, iou_thres=0.9, max_det=4, classes=(2, 0))
    assert len(expected) == 4 and np.abs(rows_of(result) - expected).max() < 0.01
    assert set(rows_of(result)[:, 5]) <= {0, 2}


def test_concurrent_requests_run_as_batches_and_each_gets_its_own_answer(client):
    images = [noise_image(seed) for seed in range(6)]
    alone = [client.json("POST", "/v1/detect", png(image), conf=0.3, imgsz=96)[1] for image in images]
    with ThreadPoolExecutor(6) as pool:
        together = list(
            pool.map(lambda image: client.json("POST", "/v1/detect", png(image), conf=0.3, imgsz=96)[1], images)
        )
    assert {each["batch"] for each in alone} == {1} and max(each["batch"] for each in together) > 1
    for one, many in zip(alone, together, strict=True):
        assert np.abs(rows_of(one) - rows_of(many)).max() < 0.02
    assert not np.array_equal(rows_of(alone[0])[:3], rows_of(alone[1])[:3])


def chunks(count):
    return iter([b"x" * 100_000] * count)


@pytest.mark.parametrize(
    ("method", "path", "body", "query", "status", "words"),
    [
        ("POST", "/v1/detect", b"", {}, 400, "the upload is empty"),
        ("POST", "/v1/detect", b"hello, I am a text", {}, 415, "the upload is not an image"),
        ("POST", "/v1/detect", png(noise_image())[:60], {}, 422, "the upload: cannot be decoded"),
        (
            "POST",
            "/v1/detect",
            png(np.zeros((800, 800, 3), np.uint8)),
            {},
            413,
            "0.64 megapixels, the server takes 0.5",
        ),
        ("POST", "/v1/detect", b"x" * 2_100_000, {}, 413, "larger than 2 MB"),
        ("POST", "/v1/detect", chunks(30), {}, 413, "larger than 2 MB"),
        ("POST", "/v1/detect", png(noise_image()), {"conf": 2}, 422, "conf: input should be less than or equal to 1"),
        (
            "POST",
            "/v1/detect",
            png(noise_image()),
            {"conf_thre": 0.5},
            422,
            "conf_thre: no such parameter (did you mean",
        ),
        ("POST", "/v1/detect", png(noise_image()), {"conf_thre": 1}, 422, "conf_thre: no such parameter (did you mean"),
        ("POST", "/v1/detect", png(noise_image()), {"imgsz": "big"}, 422, "imgsz: input should be a valid integer"),
        ("POST", "/v1/detect", png(noise_image()), {"model": "on.pt"}, 404, "no such model (did you mean one.pt"),
        (
            "POST",
            "/v1/detect",
            png(noise_image()),
            {"classes": "cow"},
            422,
            "--classes cow: the weights know no class of this name",
        ),
        ("POST", "/v1/detect", b"--x\r\nContent-Disposition: form-data\r\n", {}, 415, "the upload is a form: send"),
        ("POST", "/v1/clip", png(noise_image()), {}, 415, "the upload is not a video"),
        ("POST", "/v1/clip", b"#EXTM3U\n#EXTINF:1,\nlist.mp4\n", {}, 415, "the upload is not a video"),
        ("POST", "/v1/clip", b"\0\0\0\x18ftypmp42" + b"\0" * 200, {}, 415, "the upload is not a video"),
        ("GET", "/v1/detect", None, {}, 405, "method not allowed"),
        ("GET", "/v1/clips/nothing", None, {}, 404, "no such clip"),
        ("GET", "/page/../server.py", None, {}, 404, "not found"),
        ("GET", "/..%2f..%2fREADME.md", None, {}, 404, "not found"),
    ],
)
def test_a_wrong_request_gets_one_line(client, method, path, body, query, status, words):
    got, answer = client.json(method, path, body, **query)
    assert got == status and list(answer) == ["error"]
    assert words in answer["error"] and "\n" not in answer["error"] and "Traceback" not in answer["error"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "other.example"}, 403),
        ({"Host": "other.example:80"}, 403),
        ({"Host": "localhost:1"}, 200),
        ({"Origin": "http://other.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "localhost:7", "Origin": "http://localhost:7"}, 200),
    ],
)
def test_other_names_and_other_sites_are_refused(client, headers, status):
    assert client("POST", "/v1/detect", png(noise_image()), headers, imgsz=64)[0] == status


def test_every_answer_says_that_nothing_from_elsewhere_may_run(client):
    for path in ("/", "/page.js", "/v1/models", "/nowhere"):
        _, headers, _ = client("GET", path)
        headers = {name.lower(): value for name, value in headers.items()}
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert headers["x-content-type-options"] == "nosniff"


def test_the_page_names_no_other_address_and_has_every_text_in_both_languages():
    for file in PAGE.iterdir():
        addresses = set(re.findall(r"https?://[^\s\"'`<]+", file.read_text(encoding="utf-8")))
        assert addresses <= {"http://www.w3.org/2000/svg"}
    script = (PAGE / "page.js").read_text(encoding="utf-8")
    tables = re.findall(r"^  (en|zh): \{\n(.*?)^  \},", script, re.S | re.M)
    keys = {language: set(re.findall(r"(?:^\s*|, )\"?([\w-]+)\"?: \"", body, re.M)) for language, body in tables}
    assert len(keys["en"]) > 30 and keys["en"] == keys["zh"]
    used = set(re.findall(r"\b(?:text|say)\(\"([\w-]+)\"", script))
    used |= set(re.findall(r"data-text=\"([\w-]+)\"", (PAGE / "index.html").read_text(encoding="utf-8")))
    assert used - {"raw"} <= keys["en"]


def test_the_interface_is_described(client):
    status, description = client.json("GET", "/openapi.json")
    assert status == 200 and {"/v1/models", "/v1/detect", "/v1/clip"} <= set(description["paths"])
    operation = description["paths"]["/v1/detect"]["post"]
    assert {each["name"] for each in operation["parameters"]} >= {"model", "conf", "iou", "imgsz", "max_det", "classes"}
    assert description["components"]["schemas"]["RefusedRequest"]["properties"]["error"]["type"] == "string"
    _, listed = client.json("GET", "/v1/models")
    assert [(each["name"], each["names"]) for each in listed] == [
        ("one.pt", ["square", "disc", "star"]),
        ("two.pt", ["square", "disc", "star"]),
    ]


def test_a_clip_is_detected_frame_by_frame_and_comes_back_annotated(client, weights, tmp_path):
    clip = write_video(tmp_path / "clip.mp4", frames=10, fps=20)
    status, _, content = client("POST", "/v1/clip", clip.read_bytes(), conf=0.3, imgsz=96)
    lines = [json.loads(line) for line in content.splitlines()]
    assert status == 200 and [line.get("frame") for line in lines] == [*range(1, 11), None]
    expected = list(predict(load_predictor(weights[0], "cpu"), str(clip), PredictOptions(imgsz=96, conf_thres=0.3)))
    for line, prediction in zip(lines, expected, strict=False):
        assert np.abs(rows_of(line) - prediction.rows().numpy()).max(initial=0) < 0.01
        assert (line["frames"], line["fps"]) == (10, 20)
    assert lines[-1]["frames"] == 10 and lines[-1]["cut"] is False
    status, headers, video = client("GET", lines[-1]["clip"])
    assert status == 200 and headers["content-type"] == "video/webm"
    (tmp_path / "annotated.webm").write_bytes(video)
    capture = cv2.VideoCapture(str(tmp_path / "annotated.webm"))
    count = 0
    while capture.read()[0]:
        count += 1
    assert count == 10


def test_a_long_clip_is_cut_and_says_so(client, tmp_path):
    clip = write_video(tmp_path / "clip.mp4", frames=20)
    _, _, content = client("POST", "/v1/clip", clip.read_bytes(), imgsz=64)
    last = json.loads(content.splitlines()[-1])
    assert last["frames"] == 12 and last["cut"] is True


def test_told_to_end_the_server_leaves_out_the_rest_of_a_clip(weights, tmp_path):
    clip = write_video(tmp_path / "clip.mp4", frames=300).read_bytes()
    with running(weights[:1]) as client:
        connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=60)
        connection.request("POST", "/v1/clip?imgsz=320", clip)
        answer = connection.getresponse()
        lines = [answer.readline()]
        client.server.should_exit = True
        lines += answer.read().splitlines()
    assert json.loads(lines[0])["frame"] == 1 and len(lines) < 200
    assert "the server was told to end" in json.loads(lines[-1])["error"]


def test_a_clip_without_a_frame_is_told_without_our_path(client, tmp_path):
    path = tmp_path / "clip.avi"
    cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 64)).release()
    status, answer = client.json("POST", "/v1/clip", path.read_bytes())
    assert (status, answer) == (422, {"error": "the upload: no frame of this video can be decoded"})


def test_too_many_requests_are_told_to_come_back(weights, monkeypatch):
    with running(weights[:1], max_waiting=1, batch_size=1) as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.json("POST", "/v1/detect", png(noise_image()), imgsz=640), range(8)))
    assert {status for status, _ in answers} == {200, 503}
    assert all("too many requests wait" in body["error"] for status, body in answers if status == 503)


def test_a_failing_network_does_not_end_the_server(client, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr("utils.serve.network_worker.non_max_suppression", fail)
        status, answer = client.json("POST", "/v1/detect", png(noise_image()), imgsz=64)
        assert (status, answer) == (500, {"error": "the server failed: RuntimeError; its log has more"})
    assert client("POST", "/v1/detect", png(noise_image()), imgsz=64)[0] == 200
    assert isinstance(client, Client)


def test_a_heat_map_is_that_of_heatmap_py(client, weights):
    image = noise_image()
    status, heat = client.json(
        "POST", "/v1/heatmap", png(image), method="eigencam", conf=0.3, imgsz=96, box=2, layer="1"
    )
    source = HeatSource(load_predictor(weights[0], "cpu"), "one", str(weights[0]))
    source = replace(source, layers=tuple(find_layers(source.model, ["1"])))
    expected = make_heat_maps(source, image, PredictOptions(96, 0.3), TargetChoice("box", 2), "eigencam")
    assert status == 200 and (heat["layer"], heat["target"]) == (expected.final.title, expected.target_title())
    assert heat["maximum"] == pytest.approx(expected.final.peak, rel=1e-5)
    overlay = cv2.imdecode(np.frombuffer(base64.b64decode(heat["png"]), np.uint8), cv2.IMREAD_UNCHANGED)
    values = on_image(normalized(expected.final.values), expected.placed)
    assert overlay.shape == (96, 128, 4)
    assert np.abs((overlay[..., 3] / 255.0) ** 2 - values).max() < 0.02


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"method": "gradcam+"}, "method: unknown 'gradcam+' (did you mean gradcam++"),
        ({"layer": "99"}, "--layer 99: the network has the rows 0 to"),
        ({"conf": 1.0}, "detection 1: 0 are found at this confidence"),
    ],
)
def test_a_heat_map_that_cannot_be_made_is_one_line(client, query, words):
    status, answer = client.json("POST", "/v1/heatmap", png(noise_image()), imgsz=96, **query)
    assert status == 422 and words in answer["error"]
