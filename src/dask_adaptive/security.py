"""Credentials: from what a user may give to Dask's TLS options, and on to the files that workers read."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from distributed.security import Security

from dask_adaptive.errors import ConfigError

__all__ = ["credential_files", "security_of"]


def security_of(given: Security | Mapping[str, Any] | bool | None, *, encrypt: bool = False) -> Security:
    """Dask's TLS options from what a user may give. ``encrypt``: with credentials made now, where nothing is said."""
    if given is None and encrypt:
        configured = Security()
        given = configured if configured.require_encryption or configured.tls_ca_file else True
    if given is True:
        return _temporary()
    if isinstance(given, Mapping):
        try:
            return Security(**given)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"security cannot be made of these TLS options: {error}") from error
    if given is None or given is False:
        return Security()
    if isinstance(given, Security):
        return given
    raise ConfigError(f"security must be a distributed Security, its options or True, not {given!r}")


def _temporary() -> Security:
    try:
        return Security.temporary()
    except ImportError:
        needed = "pip install cryptography, or security=False for a cluster that everybody in reach may use"
        raise ConfigError(f"credentials cannot be made: {needed}") from None


def credential_files(security: Security, role: str, until_closed: ExitStack) -> dict[str, str]:
    """Files of the credentials of a role (``worker``, ``client``) by the keys of ``Spec.tls``; none without encryption.

    Credentials that exist only in memory are put into a private folder, which goes when ``until_closed`` is closed.
    """
    tls = security.get_tls_config_for_role(role) if security.require_encryption else {}
    files = {f"tls_{key}": tls[key] for key in ("ca_file", "cert", "key") if tls.get(key)}
    if any("\n" in value for value in files.values()):
        folder = Path(until_closed.enter_context(tempfile.TemporaryDirectory(prefix="dask-adaptive-tls-")))
        for name, text in files.items():
            (folder / name).write_text(text)
            files[name] = str(folder / name)
    return files
