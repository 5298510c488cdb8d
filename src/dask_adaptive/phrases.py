"""Numbers in sentences, said alike everywhere: in reasons, in errors, and in what is shown. Pure."""

from __future__ import annotations

__all__ = ["bytes_text", "count", "duration", "number"]


def count(amount: int, noun: str) -> str:
    """``1 job``, ``2 jobs``, ``1,000 jobs``."""
    return f"{amount:,} {noun}{'' if amount == 1 else 's'}"


def number(value: float) -> str:
    """Three digits at least, never an exponent for a large one: ``0.0123``, ``4.5``, ``12345``."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def bytes_text(amount: float) -> str:
    """``512 MB``, ``3.5 GB``."""
    return f"{number(amount / 1e9)} GB" if amount >= 1e9 else f"{number(amount / 1e6)} MB"


def duration(seconds: float) -> str:
    """Seconds as a person says them: ``4.2 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
