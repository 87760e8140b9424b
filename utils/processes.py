"""What the processes of one training exchange: sums, records, and when to stop.

A `Processes` of one process does nothing and costs nothing. Of several, three groups of connections are kept: one for
steps (gloo on the CPU, NCCL on GPUs) whose partners must answer within a minute, one of gloo for whether to stop, so
that asking does not wait for a GPU, and a patient one for what takes long on one process: reading labels, writing
checkpoints, validation.
"""

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from utils.errors import UserError
from utils.threads import usable_cores
from utils.world import World, int_of

Record = TypeVar("Record")
STEP_SECONDS = 60  # a partner that is silent for so long in a step is taken for dead
PATIENT_SECONDS = 6 * 3600
_LEAVING_SECONDS = 2  # in which a process that failed tells the others why
_REASON = "reason"  # key of why the first process failed


class OtherProcessError(UserError):
    """Another process of the training ended."""


class Processes:
    """The processes that train together, seen from one of them.

    Args:
        world: The place of this one.
        patient: Group for what may take long; None for torch's default group.
        flags: Group for small numbers on the host; None for torch's default group.
    """

    def __init__(self, world: World, patient: Any = None, flags: Any = None):
        self.world, self._patient, self._flags = world, patient, flags
        self._parent = os.getppid()
        self._pending: tuple[Any, Tensor] | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process prints and writes for all."""
        return self.world.is_first

    @property
    def is_several(self) -> bool:
        """Whether there are other processes."""
        return self.world.is_several

    @property
    def is_orphan(self) -> bool:
        """Whether the launcher is gone: it cannot end this process any more, and may have been started anew."""
        return self.is_several and os.getppid() != self._parent

    def wait(self) -> None:
        """Return when all processes have come here, however long that takes."""
        if self.is_several:
            dist.all_reduce(torch.zeros(1), group=self._patient)

    def gather(self, record: Record) -> list[Record]:
        """Return the records of all processes in the order of their ranks, to all of them."""
        if not self.is_several:
            return [record]
        records: list[Any] = [None] * self.world.size
        dist.all_gather_object(records, record, group=self._patient)
        return records

    def gather_to_first(self, record: Record) -> list[Record]:
        """Return the records of all processes in the order of their ranks to the first one, none to the others."""
        if not self.is_several:
            return [record]
        records: list[Any] | None = [None] * self.world.size if self.is_first else None
        dist.gather_object(record, records, dst=0, group=self._patient)
        return records or []

    def from_first(self, record: Record) -> Record:
        """Return the first process's record."""
        if not self.is_several:
            return record
        records = [record if self.is_first else None]
        dist.broadcast_object_list(records, src=0, group=self._patient)
        return records[0]  # type: ignore[return-value]  # a list of one record after the broadcast

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over all processes of a tensor without gradient; the same bits to all of them."""
        if not self.is_several:
            return values
        total = values.detach().clone()
        dist.all_reduce(total)
        return total

    def agree(self, code: int) -> int:
        """Return the largest of all processes' codes, to all of them."""
        if not self.is_several:
            return code
        value = torch.tensor(code)
        dist.all_reduce(value, op=dist.ReduceOp.MAX, group=self._flags)
        return int(value)

    def agree_next(self, code: int) -> int:
        """Return the largest code of the call before, to all processes alike, and send the one of this call on its way.

        It returns 0 at the first call. A step does not wait for what it asks: the answer comes with the next one. Alone
        the answer is `code` itself.
        """
        if not self.is_several:
            return code
        agreed = self.agreed()
        value = torch.tensor(code)
        self._pending = dist.all_reduce(value, op=dist.ReduceOp.MAX, group=self._flags, async_op=True), value
        return agreed

    def agreed(self) -> int:
        """Return what the last `agree_next` will have as its answer, 0 if nothing is on its way."""
        if self._pending is None:
            return 0
        work, value = self._pending
        self._pending = None
        work.wait()
        return int(value)

    def first_on_host(self, work: Callable[[], Record]) -> Record:
        """Return work(), done on the first process of each host, then on the others: they find its files."""
        if not self.is_several:
            return work()
        if self.world.local_rank == 0:
            result = work()
            self.wait()
            return result
        self.wait()
        return work()

    @torch.no_grad()
    def copy_from_first(self, module: nn.Module) -> None:
        """Give a module the first process's parameters and buffers."""
        if not self.is_several:
            return
        for tensor in module.state_dict().values():
            if tensor.is_contiguous():
                dist.broadcast(tensor, src=0)
            else:  # channels-last kernels: their bytes are sent in another order
                plain = tensor.contiguous()
                dist.broadcast(plain, src=0)
                tensor.copy_(plain)


ALONE = Processes(World())


@contextlib.contextmanager
def joined(world: World, device: torch.device) -> Iterator[Processes]:
    """Yield the processes of a training, connected; if one fails the others are told why, and end.

    Args:
        world: Which there are.
        device: Where this one computes; decides the backend.

    Yields:
        The processes, `ALONE` if there is one.

    Raises:
        OtherProcessError: If another process was killed, or did not answer.
        SystemExit: If another process has reported why the training ends.
    """
    if not world.is_several:
        yield ALONE
        return
    _use_threads(world)
    store = _store(world)
    try:
        processes = _connected(world, device, store)
        yield processes
        processes.agreed()
    except BaseException as error:
        _report(error, world, store)
        raise
    dist.destroy_process_group()


def _connected(world: World, device: torch.device, store: dist.Store) -> Processes:
    """The processes, with their groups."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    brief, patient = (datetime.timedelta(seconds=seconds) for seconds in (STEP_SECONDS, PATIENT_SECONDS))
    dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size, timeout=brief)
    groups = [dist.new_group(backend="gloo", timeout=timeout) for timeout in (patient, brief)]
    return Processes(world, *groups)


def _store(world: World) -> dist.Store:
    """The store at which the processes find each other; torchrun's own, if it has one, outlives each of them."""
    of_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    address, port = os.environ["MASTER_ADDR"], int_of(os.environ, "MASTER_PORT", 0)
    timeout = datetime.timedelta(seconds=10 * STEP_SECONDS)
    is_server = world.is_first and not of_agent
    try:
        store = dist.TCPStore(address, port, world.size, is_server, timeout=timeout, wait_for_workers=False)
    except RuntimeError as error:
        raise UserError(
            f"process {world.rank} of {world.size} cannot reach {address}:{port} ({str(error).splitlines()[0]}): "
            "MASTER_ADDR and MASTER_PORT of the launcher must be free on the first host and open to the others"
        ) from None
    return dist.PrefixStore(f"yolo/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


def _use_threads(world: World) -> None:
    """Compute in this process's share of the cores."""
    cores = usable_cores()
    threads = world.threads(cores, torch.get_num_threads())
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)


def _report(error: BaseException, world: World, store: dist.Store) -> None:
    """Let the first process that fails raise its error; the others, which fail because of it, end without a word.

    Its reason is left at the store, for what they raise. The store may have gone with the process that kept it.
    """
    told, reason = 1, ""
    with contextlib.suppress(RuntimeError):
        store.set_timeout(datetime.timedelta(seconds=_LEAVING_SECONDS))
        if not _is_of_connection(error):
            reason = f"process {world.rank} of {world.size} ended: {_in_words(error)}"
        told = store.add("ended", 1)
        if told == 1:
            store.set(_REASON, reason)
        else:
            reason = store.get(_REASON).decode()
    if told > 1:
        raise SystemExit(getattr(error, "exit_code", 1)) from OtherProcessError(reason)
    if _is_of_connection(error):
        raise OtherProcessError(
            f"process {world.rank} of {world.size}: another process was killed, or did not answer for {STEP_SECONDS} s"
        ) from None


def _is_of_connection(error: BaseException) -> bool:
    """Whether an error says that another process does not answer."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _in_words(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) and text else f"{type(error).__name__} {text}".strip()


def checksum(gradients: Sequence[Tensor]) -> Tensor:
    """Return (2,) float64: the sum of all gradients, and that of their absolute values."""
    sums = [torch.stack((each.double().sum(), each.double().abs().sum())) for each in gradients]
    return torch.stack(sums).sum(0) if sums else torch.zeros(2, dtype=torch.float64)
