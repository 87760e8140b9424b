"""The rules of docs/architecture.md, read from the source: the order of packages, imports without effect, nothing executed."""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ("train", "val", "detect", "compare", "demo")
# The one statement of the order: a package imports only from itself and from those before it, lazy imports included.
# An entry is a package, a module, or (name, its modules) where a folder that the user fixed holds several layers. The
# longest prefix wins; a `__main__` is a script and stands at the end.
ORDER = (
    "utils",
    "utils.config",
    "utils.metrics",
    "utils.statistics",
    "models.attention.ops",
    (
        "models: blocks",
        (
            "models.identity_start",
            "models.norms",
            "models.registry",
            "models.layers",
            "models.mobilenet",
            "models.head",
        ),
    ),
    "models.attention",
    ("models: every block", ("models.c3_attention", "models.common")),
    "models.graph",
    "utils.profile",
    ("models: networks", ("models", "models.yolo", "models.ensemble")),
    "models.zoo",
    "utils.checkpoint",
    "utils.transfer",
    "utils.plots",
    "utils.datasets",
    "utils.datasets.check",
    "utils.engine",
    "utils.compare.results",
    "utils.compare.report",
    "utils.compare",
    ("scripts", SCRIPTS),
)
LIGHT = ("utils.config", "utils.cli", "utils.files", "utils.errors", "utils.log", "train", "val", "detect", "compare")
PICTURES = {"cv2", "matplotlib", "PIL"}
WITH_PICTURES = ("utils.images", "utils.plots", "utils.datasets", "utils.engine", "utils.compare")
MAY_REPEAT = {"__init__", "__main__", "types"}
CALLS_THAT_EXECUTE = ("eval", "exec", "os.system", "os.popen", "compile", "__import__")
STATEMENTS_WITHOUT_EFFECT = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def sources() -> dict[str, ast.Module]:
    """Return the parsed source of every module by name."""
    paths = [path for top in ("models", "utils") for path in sorted((ROOT / top).rglob("*.py"))]
    paths += [ROOT / f"{name}.py" for name in SCRIPTS]
    return {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


@cache
def places() -> dict[str, int]:
    """Return module or package prefix -> its place in ORDER."""
    entries = [entry[1] if isinstance(entry, tuple) else (entry,) for entry in ORDER]
    return {name: place for place, names in enumerate(entries) for name in names}


def place_of(module: str) -> int:
    """Return the place of a module in ORDER."""
    if module.endswith(".__main__"):
        return len(ORDER) - 1
    prefixes = [prefix for prefix in places() if module == prefix or module.startswith(prefix + ".")]
    return places()[max(prefixes, key=len)]


def imports(module: str) -> Iterator[tuple[int, str]]:
    """Yield line and full name of what a module imports of ours; for `from package import name` the module that it is in."""
    for node in ast.walk(sources()[module]):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{module}:{node.lineno}: imports are absolute"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            targets = [name if name in sources() else node.module for name in inner]
        else:
            continue
        yield from ((node.lineno, target) for target in targets)


def test_a_package_imports_only_from_those_before_it():
    upward = [
        f"{module}:{line} imports {target}"
        for module in sources()
        for line, target in imports(module)
        if target in sources() and place_of(target) > place_of(module)
    ]
    assert not upward


def test_the_order_names_only_what_there_is():
    known = {*sources(), *(name.rpartition(".")[0] for name in sources())}
    assert [name for name in places() if name not in known] == []


def test_images_and_plots_are_read_and_drawn_in_few_packages():
    outside = [
        f"{module}:{node.lineno}"
        for module, tree in sources().items()
        if not module.startswith(WITH_PICTURES)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module])
        if name.split(".")[0] in PICTURES
    ]
    assert not outside


def test_loss_nms_and_metrics_do_not_know_models():
    named = ("utils.loss", "utils.box_losses", "utils.nms", "utils.boxes", "utils.metrics")
    wrong = [
        f"{module} imports {name}"
        for module in sources()
        if module.startswith(named)
        for _, name in imports(module)
        if name.startswith("models")
    ]
    assert not wrong


def test_nothing_is_executed_and_nothing_is_swallowed():
    assert not [fault for module, tree in sources().items() for fault in executed_or_swallowed(module, tree)]


def executed_or_swallowed(module: str, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in CALLS_THAT_EXECUTE or called.startswith(("subprocess.", "sys.path.")):
                yield f"{module}:{node.lineno} calls {called}"
        elif isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "BaseException"
            reraises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
            if caught in ("Exception", "BaseException") and not reraises:
                yield f"{module}:{node.lineno} catches {caught}"
        elif isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            if module != "models.common":
                yield f"{module}:{node.lineno} star import"


def test_modules_hold_only_definitions_constants_and_imports():
    """A bare call at module level would be an effect of importing."""
    acting = [
        f"{module}:{node.lineno} {ast.unparse(node)[:60]}"
        for module, tree in sources().items()
        for node in tree.body
        if not isinstance(node, STATEMENTS_WITHOUT_EFFECT) and not is_docstring(node) and not is_guarded(node)
    ]
    assert not acting


def is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def is_guarded(node: ast.stmt) -> bool:
    """`if TYPE_CHECKING:` and `if __name__ == "__main__":` do nothing when a module is imported."""
    return isinstance(node, ast.If) and ast.unparse(node.test).startswith(("TYPE_CHECKING", "__name__ == "))


def test_every_module_says_what_it_owns():
    assert [module for module, tree in sources().items() if tree.body and not ast.get_docstring(tree)] == []


def test_module_names_are_unique():
    stems = Counter(module.rpartition(".")[2] for module in sources() if module not in ("models", "utils"))
    packages = {name for name in stems if any(module.rpartition(".")[0].endswith(f".{name}") for module in sources())}
    twice = {name for name, count in stems.items() if count > 1 and name not in MAY_REPEAT}
    assert twice - packages == set()


def test_class_names_are_unique():
    names = Counter(node.name for tree in sources().values() for node in tree.body if isinstance(node, ast.ClassDef))
    assert [name for name, count in names.items() if count > 1] == []


def test_every_module_imports_without_effect(tmp_path):
    """All modules at once, in a fresh process with an empty folder: no file, no output, no path change."""
    names = [name for name in sources() if not name.endswith("__main__")]
    code = (
        "import sys, importlib, logging, torch, torchvision, cv2, yaml\n"  # whose own effects are not ours
        f"sys.path.insert(0, {str(ROOT)!r}); before = list(sys.path)\n"
        "seed = torch.initial_seed(); threads = torch.get_num_threads()\n"
        f"[importlib.import_module(name) for name in {names!r}]\n"
        "assert sys.path == before and torch.initial_seed() == seed and torch.get_num_threads() == threads\n"
        "assert torch.get_default_dtype() == torch.float32 and not logging.getLogger('yolo').handlers\n"
        "assert not {'pycocotools', 'tensorboard', 'matplotlib'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", LIGHT)
def test_flags_are_answered_before_torch_is_imported(module):
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {module}\n"
        "print(sorted({'torch', 'cv2', 'numpy', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
