#!/bin/sh
# torch 2.14.1, on the CPU.
#
# Guess: a float32 convolution on the CPU runs in oneDNN, whatever the batch; fewer threads only make it slower in
#   proportion.
# Behaviour: with one thread a 1x1 convolution of stride 1 goes to torch's own matrix product (_slow_conv2d) for fewer
#   than 16 images, and to oneDNN from 16 on; with two threads, or a 3x3 kernel, it is oneDNN for every batch. C3 blocks
#   and most attention blocks consist of 1x1 convolutions, and one thread is what torchrun gives each of its processes
#   and what people set to run trainings side by side: there a batch of 15 costs up to twice as much per image as one
#   of 16.
# Output seen (and a ratio of 1.6 to 2.1: time per image, forward and backward, of 15 images against 16, channels last):
#   1x1, 1 thread, 15 images: _slow_conv2d_forward
#   1x1, 1 thread, 16 images: mkldnn_convolution
#   1x1, 2 threads, 15 images: mkldnn_convolution
#   1x1, 2 threads, 16 images: mkldnn_convolution
#   3x3, 1 thread, 15 images: mkldnn_convolution
#   3x3, 1 thread, 16 images: mkldnn_convolution
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 numpy
cat > "$folder/run.py" <<'PY'
import time

import torch
from torch.profiler import ProfilerActivity, profile

KERNELS = "aten::_slow_conv2d_forward", "aten::mkldnn_convolution"


def prepared(size, images):
    layer = torch.nn.Conv2d(64, 64, size, padding=size // 2).to(memory_format=torch.channels_last)
    return layer, torch.rand(images, 64, 40, 40).contiguous(memory_format=torch.channels_last).requires_grad_()


def kernel(size, threads, images):
    torch.set_num_threads(threads)
    layer, batch = prepared(size, images)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        layer(batch)
    return ", ".join(event.key[6:] for event in seen.key_averages() if event.key in KERNELS)


def seconds_per_image(images):
    layer, batch = prepared(1, images)
    times = []
    for _ in range(30):
        start = time.perf_counter()
        layer(batch).sum().backward()
        times.append(time.perf_counter() - start)
    return min(times) / images


for size, threads in ((1, 1), (1, 2), (3, 1)):
    for images in (15, 16):
        plural = "s" if threads > 1 else ""
        print(f"{size}x{size}, {threads} thread{plural}, {images} images: {kernel(size, threads, images)}", flush=True)
torch.set_num_threads(1)
ratio = seconds_per_image(15) / seconds_per_image(16)
print(f"ratio: {ratio:.2f}", file=open("ratio", "w"))
PY
(cd "$folder" && venv/bin/python run.py 2>/dev/null) | tee "$folder/seen"
cat "$folder/ratio"
cat > "$folder/expected" <<'TXT'
1x1, 1 thread, 15 images: _slow_conv2d_forward
1x1, 1 thread, 16 images: mkldnn_convolution
1x1, 2 threads, 15 images: mkldnn_convolution
1x1, 2 threads, 16 images: mkldnn_convolution
3x3, 1 thread, 15 images: mkldnn_convolution
3x3, 1 thread, 16 images: mkldnn_convolution
TXT
diff "$folder/expected" "$folder/seen"
