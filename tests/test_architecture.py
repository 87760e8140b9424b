"""The house's rules, read from the source: floors, no effects at import, nothing executed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ("train", "val", "detect", "compare", "demo")
FLOORS = {  # longest prefix wins
    "train": 4,
    "val": 4,
    "detect": 4,
    "compare": 4,
    "demo": 4,
    "utils.engine": 3,
    "utils.datasets": 2,
    "utils.plots": 2,
    "utils.checkpoint": 2,
    "utils.restricted": 2,
    "utils.transfer": 2,
    "utils.alignment": 2,
    "models": 1,
    "utils": 0,
    "utils.loss": 1,
    "utils.nms": 1,
    "utils.metrics": 1,
    "utils.confusion": 1,
    "utils.coco": 1,
    "utils.anchors": 1,
    "utils.optim": 1,
    "utils.ema": 1,
    "utils.config": 1,
    "utils.profile": 1,
    "utils.profile.__main__": 4,
    "utils.hyperparameters": 1,
    "utils.dataset_spec": 1,
    "utils.options": 1,
    "utils.cli": 1,
    "utils.statistics": 1,
    "utils.tide": 1,
}
LIGHT = ("utils.config", "utils.cli", "utils.files", "utils.errors", "utils.log", "train", "val", "detect", "compare")
SOURCES = sorted(path for top in ("models", "utils") for path in (ROOT / top).rglob("*.py")) + [
    ROOT / f"{name}.py" for name in SCRIPTS
]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor(module: str) -> int:
    prefixes = [prefix for prefix in FLOORS if module == prefix or module.startswith(prefix + ".")]
    return FLOORS[max(prefixes, key=len)]


def imports(tree: ast.Module):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_only_from_its_own_floor_or_below(path):
    own = floor(module_name(path))
    for target in imports(tree_of(path)):
        if target.split(".")[0] in ("models", "utils", *SCRIPTS):
            assert floor(target) <= own, f"{module_name(path)} (floor {own}) imports {target} (floor {floor(target)})"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_pictures_and_plots_live_on_their_floor(path):
    if floor(module_name(path)) not in (2, 3):
        names = {target.split(".")[0] for target in imports(tree_of(path))}
        assert not names & {"cv2", "matplotlib", "PIL"}


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_loss_nms_and_metrics_do_not_know_models(path):
    if module_name(path) in (
        "utils.loss",
        "utils.nms",
        "utils.metrics",
        "utils.boxes",
        "utils.coco",
        "utils.confusion",
    ):
        assert not [target for target in imports(tree_of(path)) if target.split(".")[0] == "models"]


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_nothing_is_executed_and_nothing_is_swallowed(path):
    name = module_name(path)
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "os.system", "os.popen", "compile", "__import__"), (
                f"{name}:{node.lineno} {called}"
            )
            assert not called.startswith("subprocess."), f"{name}:{node.lineno} {called}"
            assert called != "sys.path.insert" and called != "sys.path.append" or name == "models.yolo", (
                f"{name}:{node.lineno}"
            )
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            reraises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
            assert caught not in ("everything", "Exception", "BaseException") or reraises, (
                f"{name}:{node.lineno} catches {caught}"
            )
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            assert name == "models.common", f"{name}:{node.lineno} star import"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_importing_runs_no_statement_that_acts(path):
    """At module level only definitions, constants and imports stand; a bare call is an effect."""
    for node in tree_of(path).body:
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_main = isinstance(node, ast.If) and (
            ast.unparse(node.test) == "TYPE_CHECKING" or ast.unparse(node.test).startswith("__name__ == ")
        )
        allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
        assert is_docstring or is_main or isinstance(node, allowed), (
            f"{module_name(path)}:{node.lineno} {ast.unparse(node)[:60]}"
        )


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_every_module_says_what_it_owns(path):
    if path.stat().st_size:
        assert ast.get_docstring(tree_of(path)), f"{module_name(path)} has no docstring"


def test_every_module_imports_without_effect(tmp_path):
    """All modules at once, in a fresh process with an empty folder: no file, no output, no path change."""
    names = [module_name(path) for path in SOURCES if path.name != "__main__.py"]
    code = (
        "import sys, importlib, logging, torch, torchvision, cv2, yaml\n"  # whose own effects are not ours
        f"sys.path.insert(0, {str(ROOT)!r}); before = list(sys.path); seed = torch.initial_seed(); threads = torch.get_num_threads()\n"
        f"[importlib.import_module(name) for name in {names!r}]\n"
        "assert sys.path == before and torch.initial_seed() == seed and torch.get_num_threads() == threads\n"
        "assert torch.get_default_dtype() == torch.float32 and not logging.getLogger('yolo').handlers\n"
        "assert 'pycocotools' not in sys.modules and 'tensorboard' not in sys.modules and 'matplotlib' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", LIGHT)
def test_flags_are_answered_before_torch_is_imported(module):
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {module}; print(sorted({{'torch', 'cv2', 'numpy', 'yaml'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
