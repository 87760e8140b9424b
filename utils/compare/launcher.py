"""Workers of a study as jobs of submitit: on a Slurm cluster, or on this machine.

Workers divide the runs by the lock files of the study's folder, like several starts of compare.py. What has become of a
job is read from the folder too: states and signals of submitit's local executor say little (a killed job counts as
finished, SIGTERM is dropped). So a worker puts its own signal handlers after submitit's: its run saves its state and
frees its lock; then submitit, if the signal is its own, has the job requeued, and the run is resumed.
"""

import dataclasses
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from utils import log
from utils.compare.execution import (
    devices_of,
    files_by_name,
    forget_failures,
    is_measured,
    measure_lock,
    measure_missing,
    run_missing,
    threads_of,
)
from utils.compare.plan import StudyPlan
from utils.compare.study_progress import StudyProgress
from utils.errors import ConfigError, Interruption, UserError, nearest
from utils.files import ROOT
from utils.lock_file import lock_holder
from utils.log import LOGGER
from utils.stop_signals import ENDING_SIGNALS, StopRequest, interrupting

if TYPE_CHECKING:
    from submitit import AutoExecutor, Job
    from submitit.helpers import DelayedSubmission

JOBS_FOLDER = "jobs"  # in the study's folder: what submitit writes, and what workers print
CLUSTERS = ("slurm", "local")
NO_LIMIT = 365 * 24 * 60  # minutes; submitit's local executor ends a job after two otherwise
MAX_REQUEUES = 1000  # submitit gives up after three; here every one of them goes on where the last one stopped
POLL_INTERVAL = 1.0  # seconds between two looks at the folder
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"


def launch_missing(plan: StudyPlan) -> None:
    """Submit the workers of a study, if runs or measurements are missing, and wait until its files are there.

    Args:
        plan: The study.

    Raises:
        UserError: submitit is not installed, an option is wrong, or the cluster refuses the jobs.
    """
    forget_failures(plan)
    if not plan.missing() and is_measured(plan):
        return
    cluster, executor = make_executor(plan)
    workers = make_workers(plan, cluster)
    try:
        jobs = [executor.submit(worker) for worker in workers]
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"--launcher submitit: the jobs were refused: {' '.join(str(error).split())[:300]}") from None
    names = ", ".join(job.job_id for job in jobs)
    LOGGER.info(
        f"{len(plan.missing())} of {len(plan.pairs())} runs to do in {plan.folder} by {len(jobs)} workers, "
        f"jobs of submitit ({cluster}): {names}; their logs: {plan.folder / JOBS_FOLDER}"
    )
    try:
        _wait(plan, jobs)
    except KeyboardInterrupt:
        _leave(plan, cluster, jobs)
        raise
    if not plan.has_ended():
        LOGGER.warning(
            f"WARNING: every worker has ended, and {len(plan.missing())} runs are missing; continue with: "
            f"python compare.py --study {plan.folder} --launcher submitit"
        )


def make_executor(plan: StudyPlan) -> "tuple[str, AutoExecutor]":
    """Return the cluster, "slurm" or "local", and submitit's executor for a study, with its --launch-options.

    Raises:
        ConfigError: submitit is not installed, or does not know an option.
    """
    try:
        import submitit
    except ImportError:
        raise ConfigError(
            "--launcher submitit: submitit is not installed; pip install -r requirements-launch.txt"
        ) from None
    options = parse_launch_options(plan.config.launch_options or ())
    cluster = options.pop("cluster", None) or submitit.AutoExecutor.which()
    if cluster not in CLUSTERS:
        raise ConfigError(f"--launch-options cluster={cluster}: expected {' or '.join(CLUSTERS)}")
    if cluster == "slurm" and not {"timeout_min", "slurm_time"} & set(options):
        raise ConfigError("--launch-options: a job of Slurm needs its time limit in minutes, such as timeout_min=240")
    python = shlex.join(["env", f"PYTHONPATH={_search_path()}", sys.executable])
    own = {f"{cluster}_python": python, f"{cluster}_max_num_timeout": MAX_REQUEUES}
    try:
        executor = submitit.AutoExecutor(plan.folder / JOBS_FOLDER, cluster, **own)
        executor.update_parameters(**{"timeout_min": NO_LIMIT, "name": f"study-{plan.folder.name}", **options})
    except (NameError, ValueError, AssertionError, RuntimeError) as error:
        known = [*submitit.AutoExecutor._typed_parameters(), "slurm_partition", "slurm_account", "slurm_qos"]
        hint = next((hint for name in options if name not in known and (hint := nearest(name, known, 1))), "")
        reason = str(error).partition(" Valid arguments:")[0].partition("\n")[0].rstrip(".")
        raise ConfigError(f"--launch-options {' '.join(plan.config.launch_options or ())}: {reason}{hint}") from None
    return cluster, executor


def parse_launch_options(texts: Sequence[str]) -> dict[str, Any]:
    """Return the values of KEY=VALUE texts by key: whole numbers as such, everything else as text."""
    pairs = (text.split("=", 1) for text in texts)
    return {key: int(value) if value.lstrip("-").isdecimal() else value for key, value in pairs}


def _search_path() -> str:
    """Return the PYTHONPATH of the workers: the project is found from whatever folder they start in."""
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))


def make_workers(plan: StudyPlan, cluster: str) -> "list[StudyWorker]":
    """Return one worker per job: at most --jobs, and no more than runs are missing.

    Args:
        plan: The study.
        cluster: "slurm", whose jobs have processors and GPUs of their own, or "local", whose jobs share this machine's.

    Returns:
        The workers.
    """
    config = dataclasses.replace(plan.config, jobs=1, launcher="", launch_options=None)
    count = max(min(plan.config.jobs, len(plan.missing())), 1)
    if cluster == "slurm":
        return [StudyWorker(dataclasses.replace(plan, config=config)) for _ in range(count)]
    threads, visible = threads_of(plan.config), os.environ.get(VISIBLE_GPUS)
    configs = (dataclasses.replace(config, device=device) for device in devices_of(plan.config)[:count])
    return [StudyWorker(dataclasses.replace(plan, config=each), threads, {VISIBLE_GPUS: visible}) for each in configs]


@dataclass(frozen=True)
class StudyWorker:
    """What a job executes: runs of a study, one after the other, until none is left; then the costs.

    Attributes:
        plan: The study, for one run at a time.
        threads: Threads of each run; 0 leaves the choice to torch.
        environment: Variables to set, or to unset if None: submitit hides the GPUs from its local jobs.
    """

    plan: StudyPlan
    threads: int = 0
    environment: dict[str, str | None] = dataclasses.field(default_factory=dict)

    def __call__(self) -> None:
        """Work; a signal ends the run in progress with its state saved, before submitit may have the job requeued."""
        _set_environment(self.environment)
        log.configure()
        StopRequest.repeats_end = False
        theirs = {int(each): signal.getsignal(each) for each in ENDING_SIGNALS}
        try:
            with interrupting():
                self._work()
        except Interruption as request:
            handler = theirs[request.number]
            if callable(handler) and request.number == _requeue_signal():
                handler(request.number, None)  # requeues, and ends this process
            sys.exit(request.exit_code)

    def checkpoint(self) -> "DelayedSubmission":
        """Return what a requeued job executes: the same, since all state is in the study's folder."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _work(self) -> None:
        run_missing(self.plan, self.threads)
        if not lock_holder(measure_lock(self.plan)):  # one worker measures; the others need not wait for it
            measure_missing(self.plan)


def _set_environment(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _requeue_signal() -> int:
    """Return the signal upon which submitit requeues a job; its users may name another than USR2."""
    name = os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2")
    return getattr(signal, f"SIG{name}", signal.SIGUSR2)


def _wait(plan: StudyPlan, jobs: "Sequence[Job]") -> None:
    """Return when every run has ended and costs are measured, or when no worker is left to do it."""
    progress = StudyProgress(files_by_name(plan), plan.config.epochs if plan.trains else 1, len(jobs))
    open_runs = {name for name, files in progress.runs.items() if not files.has_ended()}
    try:
        while open_runs or not is_measured(plan):
            ended = all(job.done() for job in jobs)  # before the files: the last one may just have been written
            for name in sorted(name for name in open_runs if progress.runs[name].has_ended()):
                open_runs.remove(name)
                progress.log_end(name)
            if ended:
                return
            progress.update()
            time.sleep(POLL_INTERVAL)
    finally:
        progress.close()


def _leave(plan: StudyPlan, cluster: str, jobs: "Sequence[Job]") -> None:
    """End the jobs on this machine; those on a cluster go on without this program."""
    if cluster == "local":
        for job in jobs:
            job.cancel()
        LOGGER.info(f"\nstopped; continue with: python compare.py --study {plan.folder} --launcher submitit")
        return
    names = " ".join(job.job_id for job in jobs)
    LOGGER.info(f"\nthe jobs go on; end them with: scancel {names}; report: python compare.py --study {plan.folder}")
