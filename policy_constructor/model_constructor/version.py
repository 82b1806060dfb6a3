"""The version of both distributions of this repository, `policy-constructor` and `trainer-il`."""

__version__ = "0.1.0"
