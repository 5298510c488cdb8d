"""The cluster class for machines that are reached by SSH."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Any

from distributed.security import Security
from distributed.utils import get_ip, get_ip_interface

from dask_adaptive.backend.hosts import Host, hosts_of
from dask_adaptive.cluster import Cluster
from dask_adaptive.config import backend_settings, count_of
from dask_adaptive.errors import ConfigError
from dask_adaptive.model import Pool

__all__ = ["SSHCluster"]


class SSHCluster(Cluster):
    """A Dask cluster on machines that are reached by SSH; the scheduler runs in this process.

    Parameters
    ----------
    hosts:
        A list of ``user@host:port*slots`` (all but the host may be left out), or the path of a file with one per line.
        A slot takes one job; without ``*slots`` a host has as many as its cores allow. Default: ``adaptive.ssh.hosts``
        of Dask's configuration.
    n_workers:
        Start with this many workers. Default 0: call ``adapt`` or ``scale``.
    host:
        The address of this machine that the hosts reach. Default: the one on the way to the first host.
    interface:
        The network interface of that address, such as ``"ib0"``; instead of ``host``.
    contact_address:
        What the hosts are told to connect to, where it is not the address itself (behind a forwarded port).
    scheduler_port:
        Default 0: any free port.
    dashboard_address:
        Default ``"127.0.0.1:8787"``: this machine only. None: no dashboard.
    security:
        TLS between scheduler, workers and clients. Default: as Dask is configured, else temporary credentials made
        for this cluster. False: none; whoever reaches the scheduler's port then can run anything on all the hosts.
    python, directory, host_keys, known_hosts, config, keys, connect_options, lost_s, grace_s, log_bytes:
        As of ``dask_adaptive.backend.ssh.Ssh``.
    threads, memory, workers_per_job, resources, environment, preload, worker_arguments, death_timeout, ...:
        As of ``PoolOptions``.
    name, journal, silence_logs, asynchronous, loop, quiet:
        As of ``Cluster``.

    Raises
    ------
    ConfigError
        If something was asked for that cannot be; before anything is started.
    NoCapacity
        If no host can be used; with the reason of each.

    Examples
    --------
    >>> cluster = SSHCluster(["ann@fir", "ann@oak:2222*4"], threads=2)  # doctest: +SKIP
    >>> cluster.adapt(maximum=20)  # doctest: +SKIP
    """

    def __init__(
        self,
        hosts: str | Sequence[str | Host | Mapping[str, Any]] | None = None,
        n_workers: int | None = None,
        *,
        host: str | None = None,
        interface: str | None = None,
        contact_address: str | None = None,
        scheduler_port: int = 0,
        dashboard_address: str | None = "127.0.0.1:8787",
        security: Security | Mapping[str, Any] | bool | None = None,
        **options: Any,
    ) -> None:
        found = hosts_of(backend_settings("ssh").get("hosts") if hosts is None else hosts)
        if not found:
            raise ConfigError("hosts must name at least one host: SSHCluster(['user@host*slots', ...])")
        if host is not None and interface is not None:
            raise ConfigError("give host= or interface=, not both")
        where = {
            "host": host or _address(interface, found[0]),
            "port": count_of("scheduler_port", scheduler_port),
            "contact_address": contact_address,
            "dashboard": dashboard_address is not None,
            "dashboard_address": dashboard_address or "127.0.0.1:0",
        }
        super().__init__(
            "ssh",
            n_workers=n_workers,
            security=security,
            scheduler_options={**where, **options.pop("scheduler_options", {})},
            hosts=found,
            **options,
        )

    def default_maximum_jobs(self, pool: Pool) -> int:
        """As many as the hosts have slots."""
        backend = self._backends[pool.name]
        if backend.name != "ssh":
            return super().default_maximum_jobs(pool)
        slots: int = backend.slots(pool.shape)  # type: ignore[attr-defined]
        return max(1, slots)


def _address(interface: str | None, first: Host) -> str:
    """Our address on an interface, or on the way to a host."""
    try:
        return str(get_ip_interface(interface)) if interface is not None else _toward(first.address)
    except ValueError as error:
        raise ConfigError(f"interface={interface!r}: {error}") from error


def _toward(address: str) -> str:
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(address, 22, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(where)  # sends nothing: only the route is chosen
            return str(probe.getsockname()[0])
    except OSError:  # a name that only ~/.ssh/config knows
        return str(get_ip())
