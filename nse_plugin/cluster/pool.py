"""Ray workers, and shards of work for them: a free worker takes the next one, a lost worker's shard runs again.

Ray starts the workers, notices when one dies, and starts it anew, where need be on another host. Until it has loaded
the model again the others continue without it.
"""

from __future__ import annotations

import logging
import os
import socket
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

from nse_plugin.cluster.worker import ClusterError, Worker
from nse_plugin.hparams import NSEHyperParams

log = logging.getLogger(__name__)

RESTARTS = 3  # of one worker, before Ray gives it up
DEATHS = 3  # of workers, before a shard is given up
_Shard = tuple[int, tuple[Any, ...]]


@contextmanager
def workers(
    count: int, address: str | None, model: str, dtype: str, device: str, hparams: NSEHyperParams | None
) -> Iterator[Pool]:
    """So many workers with a model, until the block ends.

    address: of a Ray cluster, which is left as it is (`ray://host:10001`, `auto`); None: this machine. model, dtype,
    device, hparams: as for `Worker`; with a CUDA device every worker has its own GPU. CPU threads of a worker:
    OMP_NUM_THREADS here, else its share of the cores. Raises ClusterError.
    """
    if count < 1:
        raise ClusterError(f"workers = {count} cannot be used: take at least one.")
    with _connected(count, address) as cores:
        gpus = int(device.startswith("cuda"))
        if gpus and not _resources("GPU"):
            raise ClusterError(f"device {device} cannot be used: Ray finds no GPU there; use cpu.")
        options = {"num_cpus": 1, "num_gpus": gpus, "max_restarts": RESTARTS, "scheduling_strategy": "SPREAD"}
        actor: Any = ray.remote(Worker).options(**options)
        device = "cuda" if gpus else device  # Ray shows a worker its own GPU only
        threads = int(os.environ.get("OMP_NUM_THREADS") or max(1, cores // count))
        handles = [actor.remote(model, dtype, device, hparams, threads) for _ in range(count)]
        yield Pool(handles)  # Ray ends workers without references


@contextmanager
def _connected(count: int, address: str | None) -> Iterator[int]:
    """A connection to Ray, one that is there already or for the block. Yields the cores to share among workers."""
    if ray.is_initialized():
        yield _resources("CPU")
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would send usage statistics
    try:
        _require_reachable(address)
        if address is None:
            ray.init("local", num_cpus=count, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray's failures come as many kinds
        remedy = (
            "try again when the machine is less busy"
            if address is None
            else "give the address that `ray start --head` printed, or leave it out to use this machine"
        )
        raise ClusterError(
            f"Ray cannot be had at {address or 'local'!r} ({str(error).strip()[:100]}): {remedy}."
        ) from error
    try:
        yield (os.cpu_count() or 1) if address is None else _resources("CPU")
    finally:
        ray.shutdown()


def _resources(kind: str) -> int:
    """How many of `CPU` or `GPU` Ray has, on all hosts."""
    api: Any = ray  # without types
    return int(api.cluster_resources().get(kind, 0))


def _require_reachable(address: str | None) -> None:
    """Raise OSError where nothing listens: Ray itself would try for many minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


class Pool:
    """Workers, each with one shard at most; made by `workers`. lost: how many shards had to run again."""

    def __init__(self, handles: list[Any]) -> None:
        self.lost = 0
        self.places: dict[Any, tuple[str, int]] = {}  # host and process of every worker that has loaded its model
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, _Shard | None]] = {}  # by what is awaited; no shard: the worker is loading
        for handle in handles:
            self._load(handle)

    def each(self, method: str, shards: Iterable[tuple[object, ...]]) -> Iterator[tuple[int, Any]]:
        """What `Worker`'s method returns for every shard, with the shard's number, in the order they are finished.

        shards: the arguments of each; asked for one as soon as a worker is free. Raises what the method raises, and
        ClusterError when all workers have died, or too many of the same shard.
        """
        self._forget_shards()
        fresh, again = enumerate(shards), list[_Shard]()
        deaths: Counter[int] = Counter()
        while True:
            while self._idle and (shard := again.pop() if again else next(fresh, None)):
                worker = self._idle.pop()
                self._busy[getattr(worker, method).remote(*shard[1])] = worker, shard
            if self._idle and not any(shard for _, shard in self._busy.values()):
                return  # those that still load are not needed any more
            if not self._busy:
                raise ClusterError(
                    f"All workers died, each {RESTARTS + 1} times: for want of memory, most likely; take fewer a host."
                )
            [done], _ = ray.wait(list(self._busy), num_returns=1)
            worker, shard = self._busy.pop(done)
            try:
                result = ray.get(done)
            except RayTaskError as error:
                if shard is not None:
                    self._idle.append(worker)
                raise error.cause or error from None
            except (RayActorError, ObjectLostError) as error:
                if shard is None:  # Ray has started it as often as it may
                    continue
                self.lost += 1
                deaths[shard[0]] += 1
                log.warning("The worker at %s, process %d, was lost: its shard runs again.", *self.places[worker])
                again.append(shard)
                self._load(worker)
                if deaths[shard[0]] == DEATHS:
                    raise ClusterError(
                        f"{DEATHS} workers died of the same shard: for want of memory, most likely; lower "
                        "tokens_per_batch, or take fewer workers a host."
                    ) from error
                continue
            self._idle.append(worker)
            if shard is None:
                self.places[worker] = result
            else:
                yield shard[0], result

    def _load(self, worker: Any) -> None:
        self.places.pop(worker, None)
        # Repeated by Ray until a worker that died is up again.
        self._busy[worker.load.options(max_task_retries=-1).remote()] = worker, None

    def _forget_shards(self) -> None:
        """What an earlier `each` that ended with an error left undone is not wanted any more."""
        for awaited, (worker, shard) in list(self._busy.items()):
            if shard is not None:
                del self._busy[awaited]
                self._load(worker)
