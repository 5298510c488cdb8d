"""A Dask cluster exactly as large as its work, on any resource manager."""

from dask_adaptive.adaptive import Adaptive
from dask_adaptive.batch_clusters import (
    CommandCluster,
    HTCondorCluster,
    LSFCluster,
    PBSCluster,
    SGECluster,
    SLURMCluster,
    SlurmCluster,
    TorqueCluster,
)
from dask_adaptive.cluster import Cluster
from dask_adaptive.errors import (
    AdaptiveError,
    Ambiguous,
    BackendError,
    ConfigError,
    EngineError,
    Garbled,
    NoCapacity,
    PolicyError,
    Rejected,
    Throttled,
    Unavailable,
)
from dask_adaptive.head.attach import HeadCluster, connect
from dask_adaptive.local_cluster import LocalCluster
from dask_adaptive.ssh_cluster import SSHCluster

__all__ = [
    "Adaptive",
    "AdaptiveError",
    "Ambiguous",
    "BackendError",
    "Cluster",
    "CommandCluster",
    "ConfigError",
    "EngineError",
    "Garbled",
    "HTCondorCluster",
    "HeadCluster",
    "LSFCluster",
    "LocalCluster",
    "NoCapacity",
    "PBSCluster",
    "PolicyError",
    "Rejected",
    "SGECluster",
    "SLURMCluster",
    "SSHCluster",
    "SlurmCluster",
    "Throttled",
    "TorqueCluster",
    "Unavailable",
    "connect",
]

__version__ = "0.1.0"
