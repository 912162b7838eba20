"""Two processes, half of a batch each: batch norm has the statistics of the whole."""

import socket
import subprocess
import sys

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import anynorm

PROCESSES = 2


def batch() -> np.ndarray:
    """Return a batch at an offset."""
    noise = np.random.default_rng(0).standard_normal((32, 6, 5))
    return (1e4 + noise).astype(np.float32)


def work(rank: int, coordinator: str) -> None:
    """Normalise the array of which we hold a part, and compare with the whole."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(coordinator, num_processes=PROCESSES, process_id=rank)
    x = batch()
    sharding = NamedSharding(Mesh(jax.devices(), ("batch",)), PartitionSpec("batch"))
    whole = jax.make_array_from_process_local_data(
        sharding, np.split(x, PROCESSES)[rank]
    )
    y = jax.jit(anynorm.batch_norm)(whole)
    exact = anynorm.batch_norm(x.astype(np.float64))
    near = all(
        np.abs(np.asarray(part.data) - exact[part.index]).max() < 2e-6
        for part in y.addressable_shards
    )
    print(f"process {rank} of {jax.process_count()}: {near}", flush=True)


def main() -> None:
    """Start the processes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    started = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), coordinator],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(PROCESSES)
    ]
    for process in started:
        said = process.communicate(timeout=120)[0].splitlines()
        print(
            *(line for line in said if line.startswith("process")), sep="\n"
        )  # Gloo says something, too


if __name__ == "__main__":
    if len(sys.argv) > 1:
        work(int(sys.argv[1]), sys.argv[2])
    else:
        main()
