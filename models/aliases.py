"""Names of tutorials, forks and papers for our blocks: which build, which are refused, what a misspelling may mean.

An alias builds if its class computes what our block computes; otherwise it is refused with the name of ours and the
difference, since a silently other form makes a comparison worthless. Registered names are found first, so a plugin may
take any of these. Further names of the table are the tags of models/zoo.yaml and names like C3_EMA. No torch.
"""

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from utils.config.yaml_files import read_yaml
from utils.files import ROOT

TABLE_OF_TAGS = ROOT / "models" / "zoo.yaml"
SHORT_NAME = 4  # letters; names this short are acronyms, in which another letter is another paper
KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")  # neighbors are mistaken for each other
ALIKE = 0.8  # least difflib ratio of longer names that count as misspelled
WORDS = (
    "attention",
    "atten",
    "attn",
    "att",
    "block",
    "layer",
    "module",
)  # that say nothing of the mechanism, at a name's end
IN_C3 = re.compile(r"(?:C3k2|C3|C2f)[_-]?(?P<inner>.+)|(?P<before>.+?)[_-]?C3")


@dataclass(frozen=True)
class Alias:
    """What one name outside this project stands for here.

    Attributes:
        name: The name as it is written there.
        block: Our registered name; "" if no block of ours is that mechanism.
        source: Where the name comes from.
        reason: Why the arithmetic is the same, or how the original differs.
        builds: Whether a row of that name builds our block.
        args: Arguments after the channels that a row of that name has unless it gives them.
        takes: How many arguments after the channels mean the same as ours; None for all.
    """

    name: str
    block: str
    source: str
    reason: str
    builds: bool = False
    args: tuple[Any, ...] = ()
    takes: int | None = None

    @property
    def plain(self) -> bool:
        """Whether the name can be replaced by our block's own, arguments left as they are."""
        return self.builds and not self.args and self.takes is None

    def note(self) -> str:
        """Return the line that is printed if the alias builds."""
        filled = f" with {', '.join(map(str, self.args))} for what the row leaves out" if self.args else ""
        return f"{self.name} is built as {self.block}{filled}: {self.reason} [{self.source}]"

    def refusal(self) -> str:
        """Return the reason of the error if the alias does not build."""
        ours = f"ours is {self.block}, and it differs" if self.block else "no block of this project is the same"
        return f"{self.name!r} is not built, it means another class [{self.source}]: {ours}: {self.reason}"


def _same(
    names: str, block: str, source: str, reason: str, args: tuple[Any, ...] = (), takes: int | None = None
) -> list[Alias]:
    return [Alias(name, block, source, reason, True, args, takes) for name in names.split()]


def _differs(names: str, block: str, source: str, reason: str) -> list[Alias]:
    return [Alias(name, block, source, reason) for name in names.split()]


def _absent(names: str, source: str, reason: str) -> list[Alias]:
    return _differs(names, "", source, reason)


HALVED = (
    "many copies halve the hidden width of the bottlenecks inside (their expansion stays 0.5), ours keeps that of C3"
)

_SAME = [
    *_same(
        "SE SELayer SE_Block",
        "SEAttention",
        "SENet's PyTorch copies",
        "two linear layers without biases, ReLU between them, reduction 16",
    ),
    *_same(
        "ECA",
        "ECAAttention",
        "ECA-Net",
        "one convolution over the channels, its taps computed from their number as in the paper (some forks take 3)",
    ),
    *_same(
        "eca_layer",
        "ECAAttention",
        "BangguWu/ECANet",
        "one convolution over the channels, of 3 taps by default",
        (3,),
        1,
    ),
    *_same(
        "eca_block EfficientChannelAttention EcaModule ECAModule",
        "ECAAttention",
        "forks, timm",
        "one convolution over the channels, its taps computed from their number by the same formula",
        takes=0,
    ),
    *_same(
        "CA CoordAttention",
        "CoordAtt",
        "houqb/CoordAttention",
        "means along both axes, one shared convolution with hard swish, a gate for each axis",
    ),
    *_same(
        "EffectiveSELayer EffectiveSEModule EffectiveSqueezeExcite eSEModule",
        "ESE",
        "PP-YOLOE, timm, VoVNetV2",
        "one 1x1 convolution of the means and a hard sigmoid",
        takes=0,
    ),
    *_same("simam_module Simam_module", "SimAM", "ZjjConan/SimAM", "the same formula, lambda 1e-4, no parameters"),
    *_same(
        "CBAMLayer", "CBAM", "forks", "the same two gates without biases and norms, ratio 16 and a kernel of 7", takes=2
    ),
    *_same(
        "cbam_block",
        "CBAM",
        "forks",
        "the same two gates without biases and norms; mean and maximum are read in the other order, a permutation of "
        "weights",
        (8, 7),
        2,
    ),
    *_same("LSKBlock", "LSKblock", "forks of zcablii/LSKNet", "the same selection of two large kernels", takes=0),
    *_same(
        "GlobalContextBlock ContextBlock",
        "GlobalContext",
        "xvjiarui/GCNet, mmcv",
        "the same pooling and fusion, and a bias more there that softmax cancels; the hidden width is at least 8 here",
    ),
    *_same(
        "CrissCrossAttention CC_module",
        "CrissCross",
        "speedinghzl/CCNet and copies",
        "one round with shared keys, as in that class (ours makes two by default); at least 8 channels of keys here",
        (1,),
        0,
    ),
    *_same("sa_layer", "ShuffleAttention", "wofmanaf/SA-Net", "the same gates and shuffle in 64 groups", (64,), 1),
    *_same(
        "MCALayer",
        "MCA",
        "ndsclark/MCANet",
        "three gates from mean and standard deviation; the two blend weights start at 0.5 here, at random there",
        takes=0,
    ),
    *_same(
        "CotLayer",
        "CoT",
        "JDAI-CV/CoTNet",
        "the paper's layer: a kernel per position, shared by 8 channels, and a split attention of both branches",
        takes=1,
    ),
    *_same(
        "deformable_LKA",
        "DLKA",
        "xmindflow/deformableLKA",
        "the same two deformable kernels; offsets start at zero and the gate around one here",
        takes=0,
    ),
]

_IN_A_CSP = [
    *_differs("C3SE", "C3Attention", "forks of YOLOv5", f"{HALVED}; write C3Attention [channels, SEAttention]"),
    *_differs("C3ECA", "C3Attention", "forks of YOLOv5", f"{HALVED}; write C3Attention [channels, ECAAttention]"),
    *_differs("C3CA", "C3Attention", "forks of YOLOv5", f"{HALVED}; write C3Attention [channels, CoordAtt]"),
    *_differs("C3CBAM", "C3Attention", "forks of YOLOv5", f"{HALVED}; write C3Attention [channels, CBAM]"),
    *_differs(
        "SEBottleneck ECABottleneck CABottleneck CBAMBottleneck",
        "C3Attention",
        "forks of YOLOv5",
        "there it is one bottleneck with the gate before its sum, not a C3; the nearest is C3Attention with that block",
    ),
    *_differs(
        "CBAMC3",
        "C3Attention",
        "forks of YOLOv5",
        "there CBAM gates the output of the whole C3: write the rows C3 [channels] and CBAM []; C3Attention "
        "[channels, CBAM] gates inside its bottlenecks",
    ),
    *_differs(
        "C3_CBAM",
        "C3Attention",
        "newer forks of YOLOv5",
        "three forms have that name; C3Attention [channels, CBAM] gates inside its bottlenecks, others gate the "
        "whole C3 (write the rows C3 and CBAM) or put CBAM in place of a convolution",
    ),
    *_differs(
        "CoT3",
        "CoTAttention",
        "yoloair",
        "there it stands in place of the bottlenecks' convolutions; C3Attention [channels, CoTAttention] keeps them",
    ),
    *_differs(
        "BoT3 CTR3",
        "BoT",
        "yoloair, yolo_research",
        "there it is a C3 whose bottlenecks attend without positions by default; BoT [] is the paper's block with "
        "relative positions, as a row after a C3",
    ),
    *_differs(
        "C3GC",
        "C3Attention",
        "yoloair",
        f"{HALVED}; write C3Attention [channels, GlobalContext]",
    ),
    *_differs(
        "C3STR STCSPA STCSPB STCSPC",
        "WindowAttention",
        "TPH-YOLOv5 and other forks",
        "there Swin blocks with their MLPs stand in place of a C3's bottlenecks; ours is the pair of plain and shifted "
        "window attention, as a row after a C3",
    ),
]

_OTHER_FORM = [
    *_differs(
        "GAM_Attention GAMAttention",
        "GAM",
        "the circulated code of GAM",
        "there the channel gate has no sigmoid and some copies' 7x7 convolutions are dense (in ours groups: 1); ours "
        "is the paper's",
    ),
    *_differs(
        "CA_Block",
        "CoordAtt",
        "tutorials",
        "there it has ReLU for hard swish, reduction 16, and no least width; ours is the authors' form",
    ),
    *_differs("CoordAttn", "CoordAtt", "timm", "there the widths are other multiples and the convolutions lack biases"),
    *_differs(
        "CoordinateAttention", "CoordAtt", "copies", "copies of that name differ in activation, reduction and biases"
    ),
    *_differs(
        "SEBlock SEModule SqueezeExcite SqueezeExcitation",
        "SEAttention",
        "RepVGG, timm, MobileNetV3, torchvision",
        "there the layers have biases, the hidden width is given or rounded to multiples of 8, and some gates are hard "
        "sigmoids",
    ),
    *_differs(
        "ESEAttn", "ESE", "PP-YOLOE", "there the gate is a plain sigmoid of another map's means, before a convolution"
    ),
    *_differs(
        "CBAMBlock",
        "CBAM",
        "External-Attention-pytorch",
        "there the input is added, the spatial kernel is 49 by default and has a bias; ours is the paper's",
    ),
    *_differs(
        "CbamModule LightCbam", "CBAM", "timm", "there the spatial gate has a batch norm; ours is the tutorials'"
    ),
    *_differs(
        "ChannelAttention ChannelAttentionModule SpatialAttention SpatialAttentionModule ChannelGate SpatialGate",
        "CBAM",
        "CBAM and its copies",
        "it is one of the two gates of CBAM, which is a row as a whole; other papers have classes of that name too",
    ),
    *_differs(
        "BAMBlock",
        "BAM",
        "External-Attention-pytorch",
        "there the channel gate has three hidden layers and three convolutions are dilated by 2; ours is the "
        "paper's: one hidden layer, two convolutions dilated by 4",
    ),
    *_differs(
        "DoubleAttention",
        "A2",
        "External-Attention-pytorch and copies",
        "there softmax without an axis runs over the batch, so images mix; A2 is the paper's block with its residual, "
        "DoubleAttentionLayer [c_m, c_n] the tutorials'",
    ),
    *_differs(
        "DANet",
        "DualAttention",
        "a tag of models/zoo.yaml after a tutorial, and another paper",
        "two papers have that name: DualAttention is the Dual Attention Network's, the tutorial yolov5_DANet.yaml "
        "holds DoubleAttentionLayer [c_m, c_n] of A^2-Nets",
    ),
    *_differs(
        "DAHead DANetHead DAModule PAM_Module CAM_Module PAM CAM",
        "DualAttention",
        "junfu1115/DANet and copies",
        "there it is a segmentation head, one of its two branches, or a copy for maps of 7x7 with 512 channels; ours "
        "is both branches with their convolutions",
    ),
    *_differs(
        "RCCAModule",
        "CrissCross",
        "speedinghzl/CCNet",
        "there it is the segmentation head around it; CrissCross [] makes its two rounds",
    ),
    *_differs(
        "NonLocalBlock NonLocalBlockND NONLocalBlock2D NLBlockND NonLocal2d NonLocalAttn",
        "NonLocal",
        "PyTorch copies, mmcv, timm",
        "there the convolutions have biases, and pooling, 1/sqrt(d) or a ratio of 8 are defaults; ours is the paper's: "
        "NonLocal [reduction, use_scale, sub_sample]",
    ),
    *_differs(
        "PSA_p",
        "ParallelPolarizedSelfAttention",
        "DeLightCMU/PSA",
        "there softmax runs over the positions after the product, which leaves a gate of 0.5; ours is the paper's",
    ),
    *_differs(
        "PSA_s",
        "SequentialPolarizedSelfAttention",
        "DeLightCMU/PSA",
        "there softmax runs over the positions and a bottleneck of C / 8 follows; ours is the paper's",
    ),
    *_differs(
        "PSA PyramidSplitAttention PolarizedSelfAttention PSABlock",
        "EPSA",
        "four papers",
        "the letters name four mechanisms: EPSA (pyramid split), ParallelPolarizedSelfAttention and "
        "SequentialPolarizedSelfAttention (polarized), C2PSA (position-sensitive)",
    ),
    *_differs(
        "PSAModule",
        "EPSA",
        "murufeng/EPSANet",
        "there the scales are joined in reverse, the widths are multiples of 64 and the second argument is the "
        "output width",
    ),
    *_differs(
        "BiFormer",
        "BRA",
        "rayleizhu/BiFormer and forks",
        "there it is a network, or a block with an MLP; BRA is its attention",
    ),
    *_differs(
        "BiLevelRoutingAttention BiLevelRoutingAttention_nchw",
        "BRA",
        "rayleizhu/BiFormer",
        "there heads are 8, the convolution of the values is 3x3, the third argument is a width and maps must divide; "
        "BRA [8, 7, 4, 3] is that form: heads, windows, topk, kernel",
    ),
    *_differs(
        "SwinTransformer SwinTransformerBlock SwinTransformerLayer SwinTransformer_Layer SwinTransformer2Block",
        "WindowAttention",
        "Swin and forks",
        "there an MLP follows each attention, and version 2 attends by cosines; ours is the pair of plain and "
        "shifted window attention",
    ),
    *_differs(
        "DAttention DeformableAttention DeformableAttention2D",
        "DAttentionBaseline",
        "forks, lucidrains",
        "there the second argument is a map size, heads are 8 and groups 4, or the positions are biased by an MLP; "
        "ours is DAttentionBaseline [n_heads, n_groups, ...]",
    ),
    *_differs(
        "MultiDilatelocalAttention MultiDilateLocalAttention",
        "MSDA",
        "JIAOJIAYUASD/dilateformer",
        "there maps are channels-last, heads are 8, dilations 1, 2, 3 and the order of arguments is another",
    ),
    *_differs(
        "EfficientLocalizationAttention",
        "ELA",
        "forks",
        "there both axes share one convolution and one norm; ours has one for each axis, as in the paper",
    ),
    *_differs(
        "AAttn ABlock A2C2f",
        "AreaAttention",
        "YOLOv12",
        "AAttn has no residual, ABlock has an MLP behind it and A2C2f is a stage of them; ours is the attention with "
        "its residual",
    ),
    *_differs(
        "HAB CAB",
        "HAT",
        "XPixelGroup/HAT",
        "there HAB is tied to one map size and CAB is its channel branch alone; ours is HAB",
    ),
    *_differs(
        "MultiSpectralAttentionLayer FcaLayer",
        "FcaNet",
        "cfzd/FcaNet",
        "there maps are pooled to a fixed table, whose height and width are the second and third argument; ours takes "
        "[reduction, num_freq]",
    ),
    *_differs(
        "RCA",
        "RCM",
        "nizhenliang/CGRSeg and forks",
        "there it is the gate alone; RCM is the module with MLP and residual",
    ),
    *_differs(
        "AdditiveTokenMixer", "CAS", "Tianfang-Zhang/CAS-ViT", "there the input is not added; ours has the residual"
    ),
    *_differs(
        "AttentionTSSA",
        "TSSA",
        "RobinWu218/ToST",
        "there it takes tokens and the input is not added; ours does, on maps",
    ),
    *_differs(
        "AgentAttention",
        "Agent",
        "LeapLabTHU/Agent-Attention",
        "there six bias tables are tied to one window; ours has none",
    ),
    *_differs(
        "PolaLinearAttention",
        "PolaFormer",
        "ZacharyMeng/PolaFormer",
        "there it takes tokens of one size and adds no input",
    ),
    *_differs(
        "External_attention",
        "ExternalAttention",
        "MenghaoGuo/EANet",
        "there convolutions stand before and behind and ReLU follows the sum; ours is the attention with its residual",
    ),
    *_differs(
        "BottleneckAttn BoTBlock", "BoT", "timm and copies", "there it is tied to one map size; ours is the whole block"
    ),
    *_differs("SKConv SKLayer SKUnit", "SKAttention", "SKNet's copies", "there the arguments and branches are others"),
    *_differs(
        "deformable_LKA_Attention",
        "DLKA",
        "xmindflow/deformableLKA",
        "there two 1x1 convolutions and a residual are around it; ours is the gate alone",
    ),
    *_differs(
        "LKA_Attention",
        "LKA",
        "Visual-Attention-Network",
        "there two 1x1 convolutions and a residual are around it; ours is the gate alone",
    ),
    *_differs(
        "BiFPN_Add2 BiFPN_Add3 BiFPN_Concat", "Sum", "forks", "there a learned mixture or weights stand before a Conv"
    ),
]

_NONE = [
    *_absent("S2Attention S2 S2-MLPv2", "S2-MLPv2 and forks", "spatial shifts with split attention are not here"),
    *_absent("MobileViTAttention MobileViTBlock MobileViTv2Attention MobileViTv2Block", "MobileViT", "it is not here"),
    *_absent("CloAttention EfficientAttention CloFormer", "CloFormer and others", "it is not here"),
    *_absent("SOCA", "SAN", "second-order channel attention is not here"),
    *_absent("OutlookAttention", "VOLO", "it is not here"),
    *_absent("AxialAttention AxialImageTransformer Axial_attention", "axial transformers", "it is not here"),
    *_absent("SEAM MultiSEAM RFEM", "YOLO-FaceV2", "it is not here"),
    *_absent("iRMB", "EMO", "it is not here"),
    *_absent("EMAU EMANet", "EMANet", "expectation-maximization attention is not here; EMA is another paper's"),
    *_absent("CascadedGroupAttention LocalWindowAttention", "EfficientViT of MSRA", "it is not here"),
    *_absent("MaSA RMT RetentionAttention", "RMT", "it is not here"),
    *_absent("HaloAttention HaloAttn LambdaLayer LambdaConv", "HaloNet, LambdaNetworks", "it is not here"),
    *_absent("SplAtConv2d SplitAttn SplitAttention", "ResNeSt", "it is not here"),
    *_absent(
        "AFT_FULL UFOAttention MUSEAttention EMSA ResidualAttention", "External-Attention-pytorch", "it is not here"
    ),
    *_absent("InLineAttention InlineAttention", "InLine", "it is not here"),
    *_absent("HyperACE C3AH", "YOLOv13", "it is not here"),
    *_absent("FocalModulation", "FocalNets", "it is not here"),
    *_absent("MSCAAttention MSCA", "SegNeXt", "it is not here; MCA is another paper's"),
    *_absent("CrossAttention SelfAttention Attention", "many papers", "classes of that name have nothing in common"),
    *_absent("Involution CARAFE gnConv ASFF DySample", "forks", "it is not here"),
    *_absent(
        "C2f C3k2 C2fPSA SPPCSPC SimSPPF SPPELAN ELAN GSConv VoVGSCSP RepConv CNeB", "other detectors", "it is not here"
    ),
]

ALIASES: Mapping[str, Alias] = {alias.name: alias for alias in (*_SAME, *_IN_A_CSP, *_OTHER_FORM, *_NONE)}


# ---- looking up ----


def variant_block(line: Mapping[str, Any]) -> str:
    """Return the block that a line of models/zoo.yaml brings in, by our own name if the line gives an alias."""
    name = str(line.get("insert") or line.get("with") or line.get("block"))
    return ALIASES[name].block if name in ALIASES and ALIASES[name].plain else name


@cache
def tags() -> dict[str, Alias]:
    """Return the tags of models/zoo.yaml that are no entry of `ALIASES`, each as an alias of its block."""
    lines = read_yaml(TABLE_OF_TAGS)
    return {
        tag: Alias(tag, variant_block(line), "tag of models/zoo.yaml", f"tag of models/yolov5_{tag}.yaml", True)
        for tag, line in lines.items()
        if tag not in ALIASES and isinstance(line, dict)
    }


def lookup(name: str, blocks: Collection[str] = ()) -> Alias | None:
    """Return what a name outside this project stands for.

    Args:
        name: The name, which is not that of a registered block.
        blocks: Registered names of attention blocks, for names like C3_EMA.

    Returns:
        The alias, or None if the name is not known.
    """
    return ALIASES.get(name) or tags().get(name) or _lookup_in_c3(name, blocks)


def _lookup_in_c3(name: str, blocks: Collection[str]) -> Alias | None:
    """Return the refusal of a name made of a C3's and an attention block's, such as C3_EMA; None for other names."""
    match = IN_C3.fullmatch(name)
    inner = (match["inner"] or match["before"]) if match else ""
    block = inner if inner in blocks else _named_block(inner)
    if not block or block not in blocks:
        return None
    reason = (
        f"three forms have such names; C3Attention [channels, {block}] gates inside its bottlenecks, others gate the "
        f"whole stage (write the rows C3 and {block}) or put {block} in place of a convolution"
    )
    return Alias(name, "C3Attention", "forks", reason)


def _named_block(name: str) -> str:
    alias = ALIASES.get(name) or tags().get(name)
    return alias.block if alias and alias.builds else ""


def canonical(name: str) -> str:
    """Return our block's name for an alias that builds, and any other name as it is."""
    return _named_block(name) or name


def notes(block: str, args: Collection[Any], registered: Collection[str]) -> Iterator[str]:
    """Yield a line for each alias that a row is built by: its block, and the one inside a C3Attention.

    Args:
        block: The row's block as written.
        args: Its arguments.
        registered: Names of registered blocks, which are no aliases.

    Yields:
        What the name is built as, and why.
    """
    inside = [arg for arg in args if isinstance(arg, str)] if block == "C3Attention" else []
    for name in (block, *inside):
        alias = None if name in registered else ALIASES.get(name) or tags().get(name)
        if alias and alias.builds:
            yield alias.note()


# ---- near misses ----


def suggest(name: str, blocks: Collection[str]) -> list[str]:
    """Return the attention blocks that a misspelled name may mean; another paper's acronym is never one.

    Args:
        name: What was given.
        blocks: Registered names of attention blocks.

    Returns:
        Names of blocks, at most three; those with the same letters first, and then only those.
    """
    outside = {**tags(), **ALIASES}
    known = {**{block: block for block in blocks}, **{other: alias.block for other, alias in outside.items()}}
    for alike in (_same_letters, _same_stem, _misspelled):
        found = list(dict.fromkeys(target for other, target in known.items() if alike(str(name)[:100], other)))
        if found:
            return [block for block in found if block][:3]
    return []


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _stem(name: str) -> str:
    """Return a name's letters without the words at its end that every attention block may have."""
    letters = _letters(name)
    for word in WORDS:
        if letters.endswith(word) and letters != word:
            return _stem(letters.removesuffix(word))
    return letters


def _same_letters(name: str, other: str) -> bool:
    return _letters(name) == _letters(other)


def _same_stem(name: str, other: str) -> bool:
    return _stem(name) == _stem(other)


def _misspelled(name: str, other: str) -> bool:
    """Return whether two names are alike: transposed letters or one key beside in an acronym, some in a longer name."""
    one, two = _stem(name), _stem(other)
    if min(len(one), len(two)) > SHORT_NAME:
        return difflib.SequenceMatcher(None, one, two).ratio() >= ALIKE
    if len(one) != len(two):
        return False
    changed = [a + b for a, b in zip(one, two, strict=True) if a != b]
    beside = len(one) == SHORT_NAME and len(changed) == 1 and any(changed[0] in row + row[::-1] for row in KEYS)
    return sorted(one) == sorted(two) or beside
