"""Ray workers, and shards of work for them: a free worker takes the next shard, a lost worker's shard runs again.

Ray starts the workers, detects when one dies, and restarts it, on another host if necessary. The other workers continue
while the restarted one loads the model.
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

RESTARTS = 3  # restarts of a worker before Ray gives it up
DEATHS = 3  # workers that may die at a shard before it is given up
_Shard = tuple[int, tuple[Any, ...]]


@contextmanager
def workers(
    count: int, address: str | None, model: str, dtype: str, device: str, hparams: NSEHyperParams | None
) -> Iterator[Pool]:
    """Run the block with a pool of `count` workers, each of which loads the model.

    address: of a running Ray cluster (`ray://host:10001`, `auto`), which is left as it is; None: this machine. model,
    dtype, device, hparams: as for `Worker`; with a CUDA device every worker has its own GPU. The number of CPU threads
    per worker is this process's OMP_NUM_THREADS, or else the worker's share of the cores. Raises ClusterError if the
    workers cannot be started.
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
        yield Pool(handles)  # Ray stops workers that are no longer referenced


@contextmanager
def _connected(count: int, address: str | None) -> Iterator[int]:
    """Run the block connected to Ray; a connection that already exists is kept. Yields the number of cores to share
    among workers."""
    if ray.is_initialized():
        yield _resources("CPU")
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # by default, Ray sends usage statistics
    try:
        _require_reachable(address)
        if address is None:
            ray.init("local", num_cpus=count, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises many types of exceptions
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
    """Return the total number of `CPU` or `GPU` that Ray has on all hosts."""
    api: Any = ray  # ray is untyped
    return int(api.cluster_resources().get(kind, 0))


def _require_reachable(address: str | None) -> None:
    """Raise OSError if nothing listens at the address: Ray itself would retry for many minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


class Pool:
    """A pool of workers with at most one shard each; created by `workers`. lost: how often a shard's worker was
    lost."""

    def __init__(self, handles: list[Any]) -> None:
        self.lost = 0
        self.places: dict[Any, tuple[str, int]] = {}  # host and process of every worker that has loaded its model
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, _Shard | None]] = {}  # by pending result; None while a worker loads
        for handle in handles:
            self._load(handle)

    def each(self, method: str, shards: Iterable[tuple[object, ...]]) -> Iterator[tuple[int, Any]]:
        """Yield the number of each shard and the result of the `Worker` method for it, in the order in which shards
        finish.

        shards: the method's arguments for each shard; the next one is drawn as soon as a worker is free. Raises the
        method's own exceptions, and ClusterError if all workers have died, or too many at the same shard.
        """
        self._forget_shards()
        fresh, again = enumerate(shards), list[_Shard]()
        deaths: Counter[int] = Counter()
        while True:
            while self._idle and (shard := again.pop() if again else next(fresh, None)):
                worker = self._idle.pop()
                self._busy[getattr(worker, method).remote(*shard[1])] = worker, shard
            if self._idle and not any(shard for _, shard in self._busy.values()):
                return  # workers that are still loading are not needed
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
                if shard is None:  # Ray has used up the worker's restarts
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
        # Ray repeats the call until a worker that died is running again.
        self._busy[worker.load.options(max_task_retries=-1).remote()] = worker, None

    def _forget_shards(self) -> None:
        """Discard unfinished shards of an earlier `each` that ended with an error."""
        for awaited, (worker, shard) in list(self._busy.items()):
            if shard is not None:
                del self._busy[awaited]
                self._load(worker)
