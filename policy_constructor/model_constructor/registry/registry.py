"""Tables of the module types and operations that a model YAML can name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from model_constructor.config.source_map import ConfigPath, SourceLocation
from model_constructor.errors import ConfigError
from model_constructor.util.suggest import closest

SignaturePolicy = Literal["strict", "best_effort", "runtime_only"]
_POLICIES = ("strict", "best_effort", "runtime_only")


@dataclass(frozen=True)
class RegistryEntry:
    """What a name stands for.

    Attributes:
        name: as written in YAML.
        kind: module types make modules when a model is built, operations run inside `forward`.
        target: the class or function.
        signature_policy: whether arguments are compared with the signature before the call. `strict` wants a
            signature to be there, `best_effort` goes without where there is none, `runtime_only` never looks.
        tags: free words for listings.
        doc: one sentence for listings.
    """

    name: str
    kind: Literal["module", "op"]
    target: Callable[..., Any]
    signature_policy: SignaturePolicy = "best_effort"
    tags: tuple[str, ...] = ()
    doc: str | None = None


class Registry:
    """Module types and operations by name; the two kinds do not get in each other's way."""

    def __init__(self) -> None:
        self._modules: dict[str, RegistryEntry] = {}
        self._ops: dict[str, RegistryEntry] = {}
        self.applied_imports: dict[str, ModuleType] = {}

    def register_module(
        self,
        name: str,
        factory: Callable[..., Any],
        *,
        signature_policy: SignaturePolicy = "best_effort",
        tags: Sequence[str] = (),
        doc: str | None = None,
    ) -> None:
        """Name a module type. Doing it again with the same factory changes nothing.

        Raises:
            ValueError: for an empty name, an unknown policy, or a name that stands for something else.
        """
        self._add(self._modules, RegistryEntry(name, "module", factory, signature_policy, tuple(tags), doc))

    def register_op(
        self,
        name: str,
        fn: Callable[..., Any],
        *,
        signature_policy: SignaturePolicy = "runtime_only",
        tags: Sequence[str] = (),
        doc: str | None = None,
    ) -> None:
        """Name an operation. Doing it again with the same function changes nothing.

        Raises:
            ValueError: as `register_module`.
        """
        self._add(self._ops, RegistryEntry(name, "op", fn, signature_policy, tuple(tags), doc))

    def get_module(
        self,
        name: str,
        *,
        config_path: ConfigPath | None = None,
        location: SourceLocation | None = None,
    ) -> RegistryEntry:
        """The module type of that name.

        Raises:
            ConfigError: with similar names, when there is none.
        """
        return self._get(self._modules, "module type", name, config_path, location)

    def get_op(
        self,
        name: str,
        *,
        config_path: ConfigPath | None = None,
        location: SourceLocation | None = None,
    ) -> RegistryEntry:
        """The operation of that name.

        Raises:
            ConfigError: with similar names, when there is none.
        """
        return self._get(self._ops, "op", name, config_path, location)

    def list_modules(self) -> list[str]:
        """Names of all module types, sorted."""
        return sorted(self._modules)

    def list_ops(self) -> list[str]:
        """Names of all operations, sorted."""
        return sorted(self._ops)

    def _add(self, table: dict[str, RegistryEntry], entry: RegistryEntry) -> None:
        if not isinstance(entry.name, str) or not entry.name:
            raise ValueError(f"a {entry.kind} is registered under a non-empty string, not {entry.name!r}")
        if entry.signature_policy not in _POLICIES:
            raise ValueError(f"signature_policy is one of {_POLICIES}, not {entry.signature_policy!r}")
        if not callable(entry.target):
            raise ValueError(f"{entry.kind} '{entry.name}' must be callable, not {entry.target!r}")
        known = table.setdefault(entry.name, entry)
        if known.target is not entry.target:
            raise ValueError(
                f"{entry.kind} '{entry.name}' is registered as {known.target!r} already, not {entry.target!r}"
            )

    def _get(
        self,
        table: dict[str, RegistryEntry],
        kind: str,
        name: str,
        config_path: ConfigPath | None,
        location: SourceLocation | None,
    ) -> RegistryEntry:
        entry = table.get(name)
        if entry is None:
            raise ConfigError(
                f"Unknown {kind} '{name}'",
                config_path=config_path,
                location=location,
                suggestions=closest(name, table, 5),
            )
        return entry
